
const form = document.getElementById("filter");
const search = document.getElementById("search");
const only = document.getElementById("only");
const shown = document.getElementById("shown");
const rows = Array.from(document.querySelectorAll("tbody tr"), (row) => {
  return { row, name: row.cells[0].textContent.toLowerCase(), bad: row.classList.contains("bad") };
});
function filter() {
  const words = search.value.toLowerCase().split(" ").filter(Boolean);
  let count = 0;
  for (const { row, name, bad } of rows) {
    row.hidden = (only.checked && !bad) || !words.every((word) => name.includes(word));
    count += !row.hidden;
  }
  shown.textContent = count === rows.length ? count + " tensors" : count + " of " + rows.length + " tensors";
}
form.hidden = false;
form.addEventListener("input", filter);
form.addEventListener("submit", (event) => event.preventDefault());
filter();
