//! The outcome of a comparison for people and for programs.

mod html;
mod json;
mod table;

pub use html::render_html;
pub use json::{incomparable_json, render_json};
pub use table::{Style, render_table};

use crate::compare::{Comparison, Finding, Positions, Row, Verdict};

/// The outcome in a sentence or two, without colours: the verdict first.
pub fn summary(comparison: &Comparison) -> String {
    let count = comparison.rows.len();
    let tensors = if count == 1 { "tensor" } else { "tensors" };
    match (comparison.verdict(), comparison.first_divergent()) {
        (Verdict::Within, _) => format!("within budget: {count} {tensors} compared, none diverges"),
        (Verdict::Incomparable, _) | (_, None) => "incomparable: no tensor stands in both".to_owned(),
        (Verdict::Beyond, Some(row)) => {
            let beyond = comparison.rows.iter().filter(|r| !r.within).count();
            format!("beyond budget: {beyond} of {count} {tensors}; the first to diverge is {}", row.name)
        }
    }
}

/// What is known of the first divergent tensor: a list of label and text.
pub(crate) fn details(comparison: &Comparison) -> Vec<(&'static str, String)> {
    let Some(row) = comparison.first_divergent() else { return Vec::new() };
    let mut lines = vec![("first divergent", row.name.clone())];
    lines.push((
        "last good",
        comparison.last_good().map_or("none: it is the first compared".to_owned(), |r| r.name.clone()),
    ));
    lines.push(("why", why(row)));
    if let Some(worst) = &row.worst {
        lines.push((
            "worst",
            format!("{:?}: expected {}, actual {}", worst.index, number(worst.expected), number(worst.actual)),
        ));
    }
    if row.finding != Finding::Shape && row.beyond > 0 {
        let elements: usize = row.shape.iter().product();
        lines.push((
            "elements",
            format!("{} of {elements} beyond the budget{}", row.beyond, whereabouts(row.positions)),
        ));
    }
    if row.beyond > 1 {
        let firsts = row
            .first_differing
            .iter()
            .map(|d| format!("{:?} {} for {}", d.index, number(d.actual), number(d.expected)));
        lines.push(("first differing", firsts.collect::<Vec<_>>().join("; ")));
    }
    if let Some(cause) = &comparison.cause {
        lines.push(("likely cause", format!("{} (confidence {:.0} %)", cause.name, cause.confidence * 100.0)));
        lines.push(("evidence", cause.evidence.clone()));
    }
    lines
}

fn whereabouts(positions: Option<Positions>) -> &'static str {
    match positions {
        None => "",
        Some(Positions::Valid) => ", all at valid positions",
        Some(Positions::Padded) => ", all at padded positions",
        Some(Positions::Both) => ", at valid and at padded positions",
    }
}

fn why(row: &Row) -> String {
    match row.finding {
        Finding::Within => "within budget".to_owned(),
        Finding::Shape => format!("shape {:?} where {:?} is expected", row.actual_shape, row.shape),
        Finding::NonFinite => "NaN, infinite or masked where the other is a number".to_owned(),
        Finding::Level => {
            format!("the error as a whole, {} of the values, is above what rounding explains", percent(row.noise))
        }
        Finding::Element => "single elements are further off than rounding explains".to_owned(),
        Finding::Outlier => "single elements stand out of the noise around them".to_owned(),
        Finding::Tolerance => "beyond the tolerance asked for".to_owned(),
        Finding::Reference => "further from the reference than a multiple of its own f32-to-f64 distance".to_owned(),
    }
}

fn percent(x: f64) -> String {
    if x >= 1e-3 { format!("{:.2} %", x * 100.0) } else { format!("{x:.2e}") }
}

/// A figure with three digits.
pub(crate) fn figure(x: f64) -> String {
    if x == 0.0 {
        "0".to_owned()
    } else if x.is_finite() {
        format!("{x:.2e}")
    } else {
        "–".to_owned()
    }
}

/// A value with as many digits as tell it from its neighbours.
fn number(x: f64) -> String {
    if x != 0.0 && x.is_finite() && !(1e-4..1e7).contains(&x.abs()) { format!("{x:.9e}") } else { format!("{x:.9}") }
}

pub(crate) fn shape(shape: &[usize]) -> String {
    let sizes: Vec<String> = shape.iter().map(usize::to_string).collect();
    format!("[{}]", sizes.join(", "))
}

/// The word that stands in the column of verdicts.
pub(crate) fn verdict_word(row: &Row) -> &'static str {
    match row.finding {
        Finding::Within => "ok",
        Finding::Shape => "SHAPE",
        Finding::NonFinite => "NOT A NUMBER",
        _ => "BEYOND",
    }
}
