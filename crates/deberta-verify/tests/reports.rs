//! The three reports on one comparison, in which the c2p of layer 0 is wrong.

use deberta_verify::report::{Style, render_html, render_json, render_table, summary};
use deberta_verify::{Cause, Comparison, Dump, Options, Tensor, compare};
use ndarray::{ArrayD, IxDyn};

const FIRST: &str = "deberta.encoder.layer.0.attention.self.c2p";
const HOSTILE: &str = "</title></svg><script>alert(1)</script>\" onload='x' \x1b[31m\u{202e}";
/// What breaks out of the text of a page, and of an attribute.
const MARKUP: [&str; 3] = ["<script>alert", "\" onload", "onload='"];

fn tensor(shape: &[usize], factor: f64) -> Tensor {
    let mut k = 0.0;
    Tensor::from_f64(&ArrayD::from_shape_simple_fn(IxDyn(shape), || {
        k += 1.0;
        factor * f64::sin(k)
    }))
}

fn wrong(heat_maps: usize) -> Comparison {
    let (mut expected, mut actual) = (Dump::new("expected"), Dump::new(HOSTILE));
    let step = |step: &str| format!("deberta.encoder.layer.0.attention.self.{step}");
    for (name, shape, factor) in [
        (step("c2c"), vec![2, 3, 5, 7], 1.0),
        (step("c2p"), vec![2, 3, 5, 7], 1.5),
        (step("p2c"), vec![2, 3, 5, 7], 1.0),
        (step("scores"), vec![2, 3, 5, 7], 1.1),
        (step("probs"), vec![2, 3, 5, 7], 1.1),
        (HOSTILE.to_owned(), vec![2, 5], 2.0),
        ("a.very.long.name.".repeat(12), vec![], 1.0),
    ] {
        expected.insert(name.clone(), tensor(&shape, 1.0));
        actual.insert(name, tensor(&shape, factor));
    }
    let options = Options { heat_maps, ..Options::default() };
    let mut comparison = compare(&expected, &actual, &options).expect("the dumps have tensors in common");
    comparison.cause = None;
    comparison
}

fn cause() -> Cause {
    Cause { name: "c2p-offset-missing".to_owned(), confidence: 0.97, evidence: "a <b>telling number".to_owned() }
}

#[test]
fn all_three_open_with_the_verdict_the_cause_and_its_evidence() {
    let mut comparison = wrong(0);
    comparison.cause = Some(cause());
    let said = summary(&comparison);
    assert_eq!(
        said,
        format!("beyond budget: 4 of 7 tensors; the first to diverge is {FIRST}, because of c2p-offset-missing (97 %)")
    );
    let table = render_table(&comparison, Style { color: false, all: false });
    let flat = table.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        flat.starts_with(&format!("{said} likely cause c2p-offset-missing (confidence 97 %) evidence a <b>")),
        "{flat}"
    );
    let json: serde_json::Value = serde_json::from_str(&render_json(&comparison)).expect("valid JSON");
    assert_eq!((&json["summary"], &json["first_divergent"]), (&said.into(), &FIRST.into()));
    assert_eq!(json["cause"]["name"], "c2p-offset-missing");
    let html = render_html(&comparison);
    let header = html.split("<header").nth(1).and_then(|h| h.split("</header>").next()).expect("the page has a header");
    for part in ["Beyond budget", "c2p</code>", "c2p-offset-missing", "97 %", "a &lt;b&gt;telling number"] {
        assert!(header.contains(part), "{part} is not in {header}");
    }
}

#[test]
fn where_no_cause_is_known_the_terms_of_the_score_stand() {
    let comparison = wrong(0);
    let json: serde_json::Value = serde_json::from_str(&render_json(&comparison)).expect("valid JSON");
    let terms: Vec<String> =
        ["c2c", "c2p", "p2c", "scores"].iter().map(|t| format!("deberta.encoder.layer.0.attention.self.{t}")).collect();
    assert_eq!(json["score_terms"], serde_json::json!(terms));
    let table = render_table(&comparison, Style { color: false, all: false });
    assert!(table.contains("none that is known fits") && table.contains("the terms of the score"), "{table}");
    assert!(render_html(&comparison).contains("no known mistake fits"));
    let mut known = comparison;
    known.cause = Some(cause());
    assert!(!render_html(&known).contains("The terms of the score"));
}

#[test]
fn the_table_fits_a_terminal_and_obeys_no_file() {
    let comparison = wrong(0);
    let plain = render_table(&comparison, Style { color: false, all: true });
    assert!(plain.lines().all(|line| line.chars().count() <= 80), "{plain}");
    assert!(!plain.contains('\x1b') && !plain.contains('\u{202e}'), "{plain}");
    let colored = render_table(&comparison, Style { color: true, all: true });
    assert!(colored.contains("\x1b[1;31mBEYOND\x1b[0m"));
    assert!(!colored.contains("\x1b[31m"), "a name set a colour");
}

#[test]
fn the_page_needs_nothing_and_runs_nothing_of_a_file() {
    let html = render_html(&wrong(6));
    assert!(html.contains("<svg class=\"map\"") && html.contains("query 0–4") && html.contains("key 0–6"));
    assert_eq!(html.matches("<script").count(), 1);
    for outside in ["http:", "https:", "<link", "<img", "url(", "@import", "src="] {
        assert!(!html.contains(outside), "the page must need nothing else, and has {outside}");
    }
    for markup in MARKUP {
        assert!(!html.contains(markup), "a name wrote {markup} into the page");
    }
}

#[test]
fn a_page_on_what_is_right_says_so() {
    let mut dump = Dump::new("one");
    dump.insert("logits", tensor(&[2, 3], 1.0));
    let comparison = compare(&dump, &dump.clone(), &Options::default()).expect("the dump has a tensor");
    let html = render_html(&comparison);
    assert!(html.contains("Within budget") && html.contains("agrees as well as rounding allows"));
}
