//! Two models side by side: are they the same, tensor by tensor?

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;
use std::process::ExitCode;

use deberta_checkpoint::name_map::{fold, one_name};
use deberta_ref::likeness::Likeness;
use deberta_ref::open_dump;
use deberta_ref::spectrum::Spectrum;
use deberta_verify::{Dump, Tensor, order};
use serde_json::{Value, json};

use super::{Args, page, spectra};

/// A tensor of both.
struct Row<'d> {
    name: String,
    tensors: [&'d Tensor; 2],
    likeness: Likeness,
}

/// What stands in which.
struct Pair<'d> {
    rows: Vec<Row<'d>>,
    only: [Vec<String>; 2],
}

/// Compares the two and prints the outcome.
pub fn run(args: &Args, other: &Path) -> anyhow::Result<ExitCode> {
    let paths = [args.path.as_path(), other];
    let dumps = [named_alike(open_dump(paths[0])?), named_alike(open_dump(paths[1])?)];
    let pair = Pair::of(&dumps);
    let spectra = args.spectra.then(|| [spectra::of_dump(&dumps[0]), spectra::of_dump(&dumps[1])]);
    if args.json {
        println!("{}", serde_json::to_string_pretty(&pair.json(paths, spectra.as_ref()))?);
    } else {
        print!("{}", pair.text(paths, args.tensors));
        if let Some(spectra) = &spectra {
            print!("{}", side_by_side(spectra));
        }
    }
    if let (Some(file), Some([a, b])) = (&args.html, &spectra) {
        page::write(file, &[(paths[0], a), (paths[1], b)])?;
    }
    Ok(ExitCode::from(u8::from(!pair.is_same())))
}

/// The tensors under the one spelling of their names, so that wrappers and TensorFlow's scopes do not count.
fn named_alike(mut dump: Dump) -> Dump {
    let names: Vec<(String, String)> =
        dump.iter().map(|(name, _)| (name.to_owned(), one_name(name))).filter(|(name, one)| name != one).collect();
    let mut taken: BTreeSet<&str> = BTreeSet::new();
    let free: Vec<_> = names.iter().filter(|(_, one)| dump.get(one).is_none() && taken.insert(one)).collect();
    let free: Vec<(&str, &str)> = free.into_iter().map(|(name, one)| (name.as_str(), one.as_str())).collect();
    dump.rename_all(free.into_iter());
    dump
}

impl<'d> Pair<'d> {
    fn of([a, b]: &'d [Dump; 2]) -> Self {
        let both = a.iter().filter_map(|(name, tensor)| Some((name, [tensor, b.get(name)?])));
        let mut rows: Vec<Row<'d>> = both
            .map(|(name, tensors)| Row {
                name: name.to_owned(),
                tensors,
                likeness: Likeness::of(tensors[0], tensors[1]),
            })
            .collect();
        rows.sort_by(|x, y| order::natural(&x.name, &y.name));
        let only = |one: &Dump, other: &Dump| {
            one.iter().map(|(name, _)| name).filter(|n| other.get(n).is_none()).map(str::to_owned).collect()
        };
        Self { rows, only: [only(a, b), only(b, a)] }
    }

    fn is_same(&self) -> bool {
        !self.rows.is_empty()
            && self.only.iter().all(Vec::is_empty)
            && self.rows.iter().all(|row| row.likeness.is_same())
    }

    /// The outcome in a sentence.
    fn verdict(&self) -> String {
        let different: Vec<&Row<'_>> = self.rows.iter().filter(|row| !row.likeness.is_same()).collect();
        let unpaired: usize = self.only.iter().map(Vec::len).sum();
        let count = self.rows.len();
        let rest =
            if unpaired == 0 { String::new() } else { format!("; {unpaired} tensors stand in one of them alone") };
        if count == 0 {
            return format!("nothing to compare: no tensor stands in both{rest}");
        }
        if different.is_empty() {
            let weakest = self.rows.iter().map(|row| row.likeness).max_by_key(|l| strength(*l));
            let how = match weakest {
                Some(Likeness::Identical) | None => "to the bit",
                Some(Likeness::Equal) => "in value, not in type",
                Some(Likeness::Rounded) => "up to rounding to the coarser type",
                Some(_) => "in value, but some in another order",
            };
            return format!("the same: all {count} tensors agree {how}{rest}");
        }
        let mut distances: Vec<f64> = different.iter().filter_map(|row| distance(row.likeness)).collect();
        distances.sort_by(f64::total_cmp);
        let misshapen = different.len() - distances.len();
        let mut text = format!("different: {} of {count} tensors", different.len());
        if let (Some(median), Some(largest)) = (distances.get(distances.len() / 2), distances.last()) {
            let _ = write!(text, ", by {median:.1e} of their norm in the median and {largest:.1e} at most");
        }
        if misshapen > 0 {
            let _ = write!(text, ", {misshapen} of them in shape");
        }
        text + &rest
    }

    fn text(&self, paths: [&Path; 2], all: bool) -> String {
        let mut out = String::new();
        // Writing to a string cannot fail.
        let _ = writeln!(out, "A  {}\nB  {}\n{}\n", paths[0].display(), paths[1].display(), self.verdict());
        let mut lines: Vec<(String, Vec<&Row<'_>>)> = Vec::new();
        for row in &self.rows {
            // Tensors that relate in one way are one line for all layers; distances are its range.
            let kind = format!("{}  {}", shapes(row), word(row.likeness));
            let key = if all { format!("{} {kind}", row.name) } else { format!("{} {kind}", without_layer(&row.name)) };
            match lines.iter_mut().find(|(k, _)| *k == key) {
                Some((_, rows)) => rows.push(row),
                None => lines.push((key, vec![row])),
            }
        }
        let names: Vec<String> =
            lines.iter().map(|(_, rows)| fold(rows.iter().map(|r| r.name.as_str())).join(", ")).collect();
        let widest = names.iter().map(|n| n.chars().count()).max().unwrap_or(0);
        for ((_, rows), name) in lines.iter().zip(names) {
            let _ = writeln!(out, "{name:<widest$}  {}  {}{}", shapes(rows[0]), word(rows[0].likeness), spread(rows));
        }
        for (which, names) in [("A", &self.only[0]), ("B", &self.only[1])] {
            for name in fold(names.iter().map(String::as_str)) {
                let _ = writeln!(out, "only in {which}  {name}");
            }
        }
        out
    }

    fn json(&self, paths: [&Path; 2], spectra: Option<&[spectra::Spectra; 2]>) -> Value {
        let rows: Vec<Value> = self.rows.iter().map(row_json).collect();
        let mut value = json!({
            "a": paths[0].display().to_string(),
            "b": paths[1].display().to_string(),
            "same": self.is_same(),
            "verdict": self.verdict(),
            "tensors": rows,
            "only_a": self.only[0],
            "only_b": self.only[1],
        });
        if let Some([a, b]) = spectra {
            value["spectra"] = json!({"a": spectra::json(a), "b": spectra::json(b)});
        }
        value
    }
}

fn row_json(row: &Row<'_>) -> Value {
    let mut value = json!(row.likeness);
    value["name"] = json!(row.name);
    value["shapes"] = json!(row.tensors.map(Tensor::shape));
    value["dtypes"] = json!(row.tensors.map(Tensor::dtype));
    value
}

/// How much the two may differ and still relate so.
fn strength(likeness: Likeness) -> u8 {
    match likeness {
        Likeness::Identical => 0,
        Likeness::Equal => 1,
        Likeness::Rounded => 2,
        Likeness::Transposed | Likeness::RowsPermuted | Likeness::ColumnsPermuted | Likeness::Permuted => 3,
        Likeness::Different { .. } => 4,
        Likeness::Shape => 5,
    }
}

fn word(likeness: Likeness) -> &'static str {
    match likeness {
        Likeness::Identical => "equal to the bit",
        Likeness::Equal => "equal in value",
        Likeness::Rounded => "equal up to rounding",
        Likeness::Transposed => "transposed",
        Likeness::RowsPermuted => "same rows in another order",
        Likeness::ColumnsPermuted => "same columns in another order",
        Likeness::Permuted => "same numbers in another order",
        Likeness::Different { .. } => "DIFFERENT",
        Likeness::Shape => "DIFFERENT SHAPE",
    }
}

fn distance(likeness: Likeness) -> Option<f64> {
    if let Likeness::Different { distance, .. } = likeness { Some(distance) } else { None }
}

/// The distances of several rows, as a range.
fn spread(rows: &[&Row<'_>]) -> String {
    let distances: Vec<f64> = rows.iter().filter_map(|row| distance(row.likeness)).collect();
    let low = distances.iter().copied().fold(f64::INFINITY, f64::min);
    let high = distances.iter().copied().fold(0.0, f64::max);
    match distances.len() {
        0 => String::new(),
        1 => format!(" by {high:.2e}"),
        _ => format!(" by {low:.2e} to {high:.2e}"),
    }
}

fn shapes(row: &Row<'_>) -> String {
    let [a, b] = row.tensors;
    let one = |t: &Tensor| format!("{} {:?}", t.dtype(), t.shape());
    match (a.dtype() == b.dtype(), a.shape() == b.shape()) {
        (true, true) => one(a),
        (false, true) => format!("{} | {} {:?}", a.dtype(), b.dtype(), a.shape()),
        _ => format!("{} | {}", one(a), one(b)),
    }
}

/// A name without the number that [`fold`] makes a range of.
fn without_layer(name: &str) -> String {
    let mut parts: Vec<&str> = name.split('.').collect();
    if let Some(number) = parts.iter().position(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit())) {
        parts[number] = "#";
    }
    parts.join(".")
}

/// The spectra of the two, a line a matrix of either.
fn side_by_side([a, b]: &[spectra::Spectra; 2]) -> String {
    let by_name = |spectra: &spectra::Spectra| -> BTreeMap<String, Spectrum> {
        spectra.iter().filter_map(|(name, s)| Some((name.clone(), s.as_ref().ok()?.clone()))).collect()
    };
    let second = by_name(b);
    let widest = a.iter().map(|(name, _)| name.len()).max().unwrap_or(0).max(6);
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(
        out,
        "\n{:<widest$}  {:>9}  {:>9}  {:>9}  {:>9}  {:>9}  {:>9}  A | B",
        "matrix", "top A", "top B", "eff.rk A", "eff.rk B", "cond. A", "cond. B"
    );
    for (name, found) in a {
        let (Ok(a), Some(b)) = (found, second.get(name)) else { continue };
        let _ = writeln!(
            out,
            "{name:<widest$}  {:>9}  {:>9}  {:>9.1}  {:>9.1}  {:>9}  {:>9}  {} | {}",
            spectra::figure(a.top()),
            spectra::figure(b.top()),
            a.effective_rank(),
            b.effective_rank(),
            spectra::figure(a.condition()),
            spectra::figure(b.condition()),
            spectra::sparkline(&a.values),
            spectra::sparkline(&b.values),
        );
    }
    out
}
