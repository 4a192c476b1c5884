//! The outcome as JSON: the keys that the contract names first, then what there is besides.

use serde_json::{Map, Value, json};

use super::{score_terms, summary};
use crate::VerifyError;
use crate::compare::{Comparison, Difference, Row, Verdict};

/// One JSON object, indented. Numbers that JSON has no spelling for (NaN, infinities) are `null`.
pub fn render_json(comparison: &Comparison) -> String {
    let cause = comparison.cause.as_ref().map(|c| json!(c));
    let value = json!({
        "verdict": comparison.verdict(),
        "first_divergent": comparison.first_divergent().map(|row| &row.name),
        "last_good": comparison.last_good().map(|row| &row.name),
        "cause": cause,
        "tensors": comparison.rows.iter().map(tensor).collect::<Vec<_>>(),
        "expected": comparison.expected,
        "actual": comparison.actual,
        "expected_computed_in": comparison.computed_in.0,
        "actual_computed_in": comparison.computed_in.1,
        "only_expected": comparison.only_expected,
        "only_actual": comparison.only_actual,
        "notes": comparison.notes,
        "summary": summary(comparison),
        "score_terms": score_terms(comparison).iter().map(|row| &row.name).collect::<Vec<_>>(),
    });
    serde_json::to_string_pretty(&value).unwrap_or_default()
}

/// What `--json` prints where there was nothing to compare: the same keys, and the reason.
pub fn incomparable_json(error: &VerifyError) -> String {
    let value = json!({
        "verdict": Verdict::Incomparable,
        "first_divergent": null,
        "last_good": null,
        "cause": null,
        "tensors": [],
        "error": error.to_string(),
    });
    serde_json::to_string_pretty(&value).unwrap_or_default()
}

fn tensor(row: &Row) -> Value {
    let mut object = Map::new();
    let mut put = |key: &str, value: Value| object.insert(key.to_owned(), value);
    put("name", json!(row.name));
    put("shape", json!(row.shape));
    put("max_abs", json!(row.max_abs));
    put("max_ulp", json!(row.max_ulp));
    put("budget", json!(row.budget));
    put("within", json!(row.within));
    put("worst_index", json!(row.worst.as_ref().map(|w| &w.index)));
    put("finding", json!(row.finding));
    put("max_rel", json!(row.max_rel));
    put("noise", json!(row.noise));
    put("cosine", json!(row.cosine));
    put("dtypes", json!([row.dtypes.0, row.dtypes.1]));
    put("worst", json!(row.worst.as_ref().map(difference)));
    put("beyond", json!(row.beyond));
    put("first_differing", json!(row.first_differing.iter().map(difference).collect::<Vec<_>>()));
    put("positions", json!(row.positions));
    if row.shape != row.actual_shape {
        put("actual_shape", json!(row.actual_shape));
    }
    if let Some(name) = &row.actual_name {
        put("actual_name", json!(name));
    }
    if let Some(cosine) = row.guessed {
        put("guessed", json!(cosine));
    }
    Value::Object(object)
}

fn difference(d: &Difference) -> Value {
    json!({"index": d.index, "expected": d.expected, "actual": d.actual})
}
