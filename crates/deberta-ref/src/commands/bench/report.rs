//! A benchmark as a table and as JSON.

use std::fmt::Write;

use deberta_ref::{DebertaV2Config, Head};
use serde_json::{Value, json};

use super::Args;
use super::measure::Timing;

/// What was run, in a line.
pub fn title(args: &Args, head: Head, config: &DebertaV2Config, place: &str) -> String {
    format!(
        "{} ({head}, hidden_size {}, {} layers), {}, {place}",
        args.model.model.display(),
        config.hidden_size,
        config.num_hidden_layers,
        args.precision,
    )
}

/// One line a shape; the spread is the distance of the quartiles.
pub fn table(timings: &[Timing], title: &str) -> String {
    let mut out = format!("{title}\n\n");
    let head = ["shape", "median s", "min s", "max s", "spread s", "peak MiB", "GFLOP", "GFLOP/s", "sgemm", "share"];
    row(&mut out, head.map(str::to_owned));
    for timing in timings {
        let seconds = |share| format!("{:.4}", timing.quantile(share));
        row(
            &mut out,
            [
                timing.shape.clone(),
                seconds(0.5),
                seconds(0.0),
                seconds(1.0),
                format!("{:.4}", timing.quantile(0.75) - timing.quantile(0.25)),
                timing.peak_memory.map_or_else(|| "?".to_owned(), |bytes| (bytes >> 20).to_string()),
                format!("{:.1}", timing.operations / 1e9),
                format!("{:.1}", timing.rate() / 1e9),
                format!("{:.1}", timing.product_rate() / 1e9),
                format!("{:.0} %", 100.0 * timing.rate() / timing.product_rate()),
            ],
        );
    }
    let [n, i, o] = timings.first().map_or([0; 3], |timing| timing.product);
    // Writing to a string cannot fail.
    let _ = writeln!(
        out,
        "\nspread: between the quartiles. GFLOP: what a pass must do. sgemm: GFLOP/s of [{n}, {i}]·[{o}, {i}]ᵀ, timed beside the passes."
    );
    out
}

fn row(out: &mut String, cells: [String; 10]) {
    let [shape, rest @ ..] = cells;
    let _ = write!(out, "{shape:<9}");
    for cell in rest {
        let _ = write!(out, " {cell:>9}");
    }
    out.push('\n');
}

/// A list with an object a shape.
pub fn json(timings: &[Timing]) -> Value {
    let object = |timing: &Timing| {
        json!({
            "shape": timing.shape,
            "median_s": timing.quantile(0.5),
            "min_s": timing.quantile(0.0),
            "max_s": timing.quantile(1.0),
            "spread_s": timing.quantile(0.75) - timing.quantile(0.25),
            "passes": timing.passes.len(),
            "peak_rss_bytes": timing.peak_memory,
            "gflop": timing.operations / 1e9,
            "sgemm_gflop_per_s": timing.product_rate() / 1e9,
            "sgemm_share": timing.rate() / timing.product_rate(),
        })
    };
    timings.iter().map(object).collect()
}
