//! The outcome of a comparison for people and for programs.
//!
//! All three forms say the same in the same order: the verdict in one sentence, with the cause and its evidence; what is
//! known of the first divergent tensor; the terms of the score, where no cause is known; then tensor by tensor.

mod chart;
mod html;
mod json;
mod pictures;
mod table;

pub use html::render_html;
pub use json::{incomparable_json, render_json};
pub use table::{Style, render_table};

use crate::compare::{Comparison, Finding, Positions, Row, Verdict};
use crate::diagnose::Cause;
use crate::order::canonical;

/// The outcome in a sentence, without colours: the verdict first.
pub fn summary(comparison: &Comparison) -> String {
    let count = comparison.rows.len();
    let tensors = if count == 1 { "tensor" } else { "tensors" };
    match (comparison.verdict(), comparison.first_divergent()) {
        (Verdict::Within, _) => format!("within budget: {count} {tensors} compared, none diverges"),
        (Verdict::Incomparable, _) | (_, None) => "incomparable: no tensor stands in both".to_owned(),
        (Verdict::Beyond, Some(row)) => {
            let beyond = comparison.rows.iter().filter(|r| !r.within).count();
            let cause = comparison.cause.as_ref().map_or_else(String::new, |c| format!(", {}", blame(c)));
            format!("beyond budget: {beyond} of {count} {tensors}; the first to diverge is {}{cause}", row.name)
        }
    }
}

/// A cause as the end of a sentence, as sure as its confidence.
fn blame(cause: &Cause) -> String {
    format!("{} {} ({})", likely(cause), cause.name, percent(cause.confidence))
}

fn likely(cause: &Cause) -> &'static str {
    match cause.confidence {
        c if c >= 0.9 => "because of",
        c if c >= 0.5 => "probably because of",
        _ => "perhaps because of",
    }
}

/// What is known of the first divergent tensor: a list of label and text.
pub(crate) fn details(comparison: &Comparison) -> Vec<(&'static str, String)> {
    let Some(row) = comparison.first_divergent() else { return Vec::new() };
    let mut lines = Vec::new();
    match &comparison.cause {
        Some(cause) => {
            lines.push(("likely cause", format!("{} (confidence {})", cause.name, percent(cause.confidence))));
            lines.push(("evidence", cause.evidence.clone()));
        }
        None => lines.push(("likely cause", "none that is known fits these numbers".to_owned())),
    }
    lines.push(("first divergent", row.name.clone()));
    lines.push((
        "last good",
        comparison.last_good().map_or("none: it is the first compared".to_owned(), |r| r.name.clone()),
    ));
    lines.push(("why", why(row)));
    if row.max_abs.is_finite() {
        lines.push(("error", sizes(row)));
    }
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
    lines
}

/// Where the error is seen and no cause is known: the terms of the score of that layer, as far as both dumps hold them.
pub(crate) fn score_terms(comparison: &Comparison) -> Vec<&Row> {
    let (None, Some(first)) = (&comparison.cause, comparison.first_divergent()) else { return Vec::new() };
    let name = canonical(&first.name);
    let Some((layer, _)) = name.split_once(".attention.") else { return Vec::new() };
    let is_term = |row: &&Row| {
        let name = canonical(&row.name);
        let step = name.strip_prefix(layer).and_then(|tail| tail.strip_prefix(".attention.self."));
        matches!(step, Some("c2c" | "c2p" | "p2c" | "scores"))
    };
    comparison.rows.iter().filter(is_term).collect()
}

/// A character of what a file says, as it may stand in a report: it must not move the cursor, change colours or turn the
/// direction of the text.
pub(crate) fn printable(c: char) -> char {
    let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    if c.is_control() || turns { char::REPLACEMENT_CHARACTER } else { c }
}

/// The last part of a name.
pub(crate) fn leaf(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

/// How far off, in the units that people ask for.
fn sizes(row: &Row) -> String {
    let cosine = row.cosine.map_or_else(String::new, |c| format!(", cosine {c:.6}"));
    format!(
        "max {} (relative {}, {} ulp), budget {}{cosine}",
        figure(row.max_abs),
        figure(row.max_rel),
        count(row.max_ulp),
        figure(row.budget)
    )
}

/// Counts of more than seven digits say nothing but that they are large.
pub(crate) fn count(n: u64) -> String {
    if n > 9_999_999 { "> 9999999".to_owned() } else { n.to_string() }
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
            format!("the error as a whole, {} of the values, is above what rounding explains", share(row.noise))
        }
        Finding::Element => "single elements are further off than rounding explains".to_owned(),
        Finding::Outlier => "single elements stand out of the noise around them".to_owned(),
        Finding::Tolerance => "beyond the tolerance asked for".to_owned(),
        Finding::Reference => "further from the reference than a multiple of its own f32-to-f64 distance".to_owned(),
    }
}

fn share(x: f64) -> String {
    if x >= 1e-3 { format!("{:.2} %", x * 100.0) } else { format!("{x:.2e}") }
}

fn percent(x: f64) -> String {
    format!("{:.0} %", x * 100.0)
}

/// How sure it is that another name means this tensor: nothing where the name says so, else that it is a guess.
pub(crate) fn surety(row: &Row) -> &'static str {
    if row.guessed.is_some() { " (guess)" } else { "" }
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
        Finding::NonFinite => "NAN",
        _ => "BEYOND",
    }
}

/// The part of the model that a tensor belongs to: a heading over a group of tensors, and a mark on the chart's axis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Embeddings,
    Relative,
    Layer(u32),
    Decoder,
    Head,
}

impl Part {
    pub(crate) fn of(name: &str) -> Self {
        let name = canonical(name);
        let number = |tail: &str| tail.split('.').next().and_then(|i| i.parse().ok());
        if let Some(i) = name.strip_prefix("deberta.encoder.layer.").and_then(number) {
            Self::Layer(i)
        } else if let Some(i) = name.strip_prefix("attentions.").and_then(number) {
            Self::Layer(i)
        } else if let Some(i) = name.strip_prefix("hidden_states.").and_then(number) {
            if i == 0 { Self::Embeddings } else { Self::Layer(i - 1) }
        } else if name.starts_with("deberta.encoder.conv") {
            Self::Layer(0)
        } else if name.starts_with("deberta.embeddings") {
            Self::Embeddings
        } else if name.starts_with("deberta.encoder.") {
            Self::Relative
        } else if name.starts_with("lm_predictions.emd") || name.starts_with("emd_outputs") {
            Self::Decoder
        } else {
            Self::Head
        }
    }

    pub(crate) fn title(&self) -> String {
        match self {
            Self::Embeddings => "embeddings".to_owned(),
            Self::Relative => "relative rows".to_owned(),
            Self::Layer(i) => format!("layer {i}"),
            Self::Decoder => "enhanced mask decoder".to_owned(),
            Self::Head => "outputs".to_owned(),
        }
    }

    /// The title in as few letters as an axis has room for.
    pub(crate) fn mark(&self) -> String {
        match self {
            Self::Embeddings => "emb".to_owned(),
            Self::Relative => "rel".to_owned(),
            Self::Layer(i) => i.to_string(),
            Self::Decoder => "emd".to_owned(),
            Self::Head => "out".to_owned(),
        }
    }
}
