"""Writes the page and the picture of one run of compare.py beside its JSON."""

import statistics
import sys
from math import log2
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))
from pages import STYLE, percent, table  # noqa: E402

OURS = "deberta-ref"
PEERS = ("Hugging Face", "FlashDeBERTa", "disentangled-flash")
PROGRAMS = (OURS, *PEERS)
TRITON = PEERS[1:]


def operations(config, lengths, what):
    """Floating-point operations of products with weights, and of queries, keys and values; position terms, which programs get by
    different means, are not counted."""
    width, inner = config["hidden_size"], config["intermediate_size"]
    attention = sum(4 * length * length * width for length in lengths)
    if what == "attention":
        return attention
    return config["num_hidden_layers"] * (attention + sum(lengths) * 2 * (4 * width * width + 2 * width * inner))


def median(entry, name):
    seconds = entry["programs"].get(name, {}).get("seconds")
    return statistics.median(seconds) if seconds else None


def share(results, entry, name):
    """Of the rate of one large product in the same precision."""
    seconds, peak = median(entry, name), results["peaks"].get(entry["precision"])
    return entry["operations"] / seconds / peak if seconds and peak else None


def milliseconds(seconds):
    return "–" if seconds is None else f"{1000 * seconds:,.0f}" if seconds >= 0.1 else f"{1000 * seconds:.3g}"


def line(entry):
    found = ", ".join(f"{name} {milliseconds(median(entry, name))}" for name in entry["programs"])
    failed = "".join(f"\n    {name}: {reason}" for name, reason in entry["failed"].items())
    return f"{entry['what']} {entry['model']} {entry['precision']} {entry['shape']}: ms: {found or 'none'}{failed}"


def groups(results):
    """The runs that belong together (what, model and precision), in the order of their lengths, ragged ones last."""
    found = {}
    for entry in results["runs"]:
        found.setdefault((entry["what"], entry["model"], entry["precision"]), []).append(entry)
    return {key: sorted(entries, key=lambda e: (len(set(e["lengths"])) > 1, max(e["lengths"]))) for key, entries in found.items()}


def rows(results, entries):
    for entry in entries:
        own = median(entry, OURS)
        cells = [entry["shape"].replace("x", " × ")]
        for name in PROGRAMS:
            seconds, taken = median(entry, name), entry["programs"].get(name, {}).get("bytes")
            ratio = f" ({seconds / own:.2f})" if seconds and own and name != OURS else ""
            memory = f", {taken / 2**20:,.0f} MiB" if taken else ""
            cells.append(f"{milliseconds(seconds)}{ratio}{memory}")
        cells += [percent(share(results, entry, name)) for name in PROGRAMS]
        yield cells


def goals(results):
    """What issue and README set out for, and what was found."""
    asked = (
        ("whole v3-base from 512 tokens on, the faster Triton package", "whole", 512, 1.3),
        ("attention alone at 8192 tokens, the faster Triton package", "attention", 8192, 2.0),
    )
    lines = []
    for words, what, least, factor in asked:
        ratios = []
        for entry in results["runs"]:
            others = [t for t in (median(entry, name) for name in TRITON) if t]
            if (entry["what"], entry["model"]) == (what, "v3-base") and max(entry["lengths"]) >= least and median(entry, OURS) and others:
                ratios.append((min(others) / median(entry, OURS), f"{entry['precision']}, {entry['shape']}"))
        if ratios:
            worst, where = min(ratios)
            lines.append([words, f"≥ {factor} ×", f"{worst:.2f} × ({where})", "met" if worst >= factor else "missed"])
    return table(["goal", "asked", "worst found", ""], lines) if lines else ["Nothing that a goal speaks of was measured."]


def failures(results):
    found = {}
    for entry in results["runs"]:
        for name, reason in entry["failed"].items():
            found.setdefault((name, reason), []).append(f"{entry['what']} {entry['model']} {entry['precision']} {entry['shape']}")
    return [f"- {name}, {', '.join(where)}: {reason}" for (name, reason), where in found.items()]


def page(results, picture):
    versions = ", ".join(f"{name} {version or 'not installed'}" for name, version in results["versions"].items())
    lines = [f"# {results['card']}, {results['date']}: DeBERTa beside others", ""]
    if not results["measured"]:
        lines += ["**Not a measurement: nothing on this page was computed on a GPU.**", ""]
    if results.get("replay"):
        lines += ["- Ours replays recorded passes (CUDA graphs)"]
    lines += [f"- Commit: {results['commit']}", f"- Driver: {results['driver'] or 'unknown'}", f"- {versions}"]
    peaks = ", ".join(f"{precision} {rate / 1e12:.1f}" for precision, rate in results["peaks"].items())
    lines += [f"- One large product, TFLOP/s: {peaks or 'not measured'}", "", f"![Share of the peak by length]({picture})", "", *goals(results)]
    for (what, model, precision), entries in groups(results).items():
        title = f"whole {model}" if what == "whole" else f"attention alone, heads of {model}"
        head = ["batch", *PROGRAMS, *(f"{name}, of the peak" for name in PROGRAMS)]
        lines += ["", f"## {title}, {precision}", "", "Median milliseconds; in brackets, how many times as long as ours; the most memory.", ""]
        lines += table(head, rows(results, entries))
    if reasons := failures(results):
        lines += ["", "## Not timed", "", *reasons]
    return "\n".join(lines) + "\n"


# --- the picture -----------------------------------------------------------------------------------------------------

WIDE, TALL, LEFT, TOP = 300, 170, 44, 52
CURVES = "  .c { fill: none; stroke-width: 2 }\n" + "".join(
    f"  .c{at} {{ stroke: {light} }}\n" for at, light in enumerate(("#0969da", "#bc4c00", "#8250df", "#bf8700"))
)


def curve(results, entries, at, name, x, y):
    points = [(max(e["lengths"]), share(results, e, name), e) for e in entries]
    points = [(length, value, e) for length, value, e in points if value is not None]
    if not points:
        return []
    path = " ".join(f"{x(length):.1f},{y(value):.1f}" for length, value, _ in points)
    marks = [
        f'<circle class="p{at}" cx="{x(length):.1f}" cy="{y(value):.1f}" r="3"><title>{name}, {e["shape"]}: '
        f"{milliseconds(median(e, name))} ms, {percent(value)}</title></circle>"
        for length, value, e in points
    ]
    return [f'<polyline class="c c{at}" points="{path}"/>', *marks]


def panel(results, title, entries, left, top):
    lengths = sorted({max(e["lengths"]) for e in entries})
    low, high = log2(lengths[0]), log2(lengths[-1])
    shares = [share(results, e, name) or 0 for e in entries for name in PROGRAMS]
    most = max([*shares, 0.1])

    def x(length):
        return left + (WIDE - 20) * ((log2(length) - low) / (high - low) if high > low else 0.5) + 10

    def y(value):
        return top + TALL * (1 - value / most)

    body = [f'<text x="{left}" y="{top - 10}">{title}</text>']
    for mark in range(5):
        value = most * mark / 4
        body.append(f'<line class="axis" x1="{left}" x2="{left + WIDE}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>')
        body.append(f'<text class="small" text-anchor="end" x="{left - 5}" y="{y(value) + 4:.1f}">{100 * value:.3g} %</text>')
    body += [f'<text class="small" text-anchor="middle" x="{x(n):.1f}" y="{top + TALL + 14}">{n}</text>' for n in lengths]
    for at, name in enumerate(PROGRAMS):
        body += curve(results, entries, at, name, x, y)
    return body


def picture(results):
    """Share of the peak by length, a panel for each kind of run; ragged batches are in the tables."""
    found = {key: [e for e in entries if len(set(e["lengths"])) == 1] for key, entries in groups(results).items()}
    found = {key: entries for key, entries in found.items() if entries}
    columns = 2
    width = columns * (WIDE + LEFT + 20)
    height = TOP + ((len(found) + 1) // columns) * (TALL + 62)
    title = f"{results['card']}: share of the rate of one large product, by tokens a sequence"
    if not results["measured"]:
        title = f"Not a measurement. {title}"
    body, x = [f'<text x="{LEFT}" y="16">{title}</text>'], LEFT
    for at, name in enumerate(PROGRAMS):
        body.append(f'<rect class="p{at}" x="{x}" y="24" width="10" height="10"/><text class="small" x="{x + 14}" y="33">{name}</text>')
        x += 32 + 6 * len(name)
    for place, ((what, model, precision), entries) in enumerate(found.items()):
        words = f"{'whole' if what == 'whole' else 'attention of'} {model}, {precision}"
        left, top = LEFT + place % columns * (WIDE + LEFT + 20), TOP + 26 + place // columns * (TALL + 62)
        body += panel(results, words, entries, left, top)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" aria-label="{title}">'
    return "\n".join([head, f"<title>{title}</title>", f"<style>{STYLE}{CURVES}</style>", *body, "</svg>", ""])


def write(results, file):
    file.with_suffix(".svg").write_text(picture(results))
    file.with_suffix(".md").write_text(page(results, file.with_suffix(".svg").name))
    print(f"written: {file.with_suffix('.md')}, {file.with_suffix('.svg').name}")
