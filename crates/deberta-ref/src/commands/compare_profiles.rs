//! `deberta-ref compare-profiles`: one model and one set of inputs through every profile, and where they part.

use std::path::PathBuf;
use std::process::ExitCode;

use deberta_ref::{Attention, Head, Keep, ModelDirectory, Profile, Trace, read_inputs};
use ndarray::{ArrayD, Axis};
use serde_json::json;

use super::run::parse_profile;

/// Run a model under every profile, and show where and by how much they part.
///
/// Computed in f64, so that what is shown is disagreement and not rounding. Padded positions are told apart from valid
/// ones, as most disagreements stay within the padding.
#[derive(clap::Args)]
pub struct Args {
    /// The model directory: config.json and weights, or a hub cache folder
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// The safetensors file that holds the inputs
    #[arg(long, value_name = "IN.safetensors")]
    inputs: PathBuf,
    /// What stands on top of the encoder [default: what config.json and the weights say]
    #[arg(long)]
    head: Option<Head>,
    /// The profile to measure from
    #[arg(long, default_value = "hf-5", value_parser = parse_profile)]
    from: Profile,
    /// Use this many threads; 0: as many as the machine runs at once
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: usize,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

/// One output under one profile, compared with the same output under another.
struct Apart {
    name: String,
    /// The largest difference over valid positions; all positions where the output has none.
    valid: f64,
    /// The largest difference over padded positions.
    padded: Option<f64>,
}

/// Below this two f64 runs of one function differ by rounding alone.
const ROUNDING: f64 = 1e-9;

/// Runs every profile and shows the differences.
///
/// # Errors
/// A model or inputs that cannot be read, or that do not fit.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    deberta_ref::set_threads(args.threads);
    let directory = ModelDirectory::open(&args.model)?;
    let head = args.head.unwrap_or_else(|| directory.default_head());
    let base = outputs(&args, &directory, head, args.from)?;
    let padded = padded_positions(&args, head)?;
    let mut all = Vec::new();
    for profile in Profile::ALL.into_iter().filter(|p| *p != args.from) {
        // A profile may need a parameter that the weights lack, or do without one.
        match outputs(&args, &directory, head, profile) {
            Ok(found) => all.push((profile, Ok(apart(&base, &found, padded.as_ref())))),
            Err(error) => all.push((profile, Err(format!("{error:#}")))),
        }
    }
    if args.json {
        print_json(&args, &all)?;
    } else {
        print_table(&args, head, &all);
    }
    Ok(ExitCode::SUCCESS)
}

type Outputs = Vec<(String, ArrayD<f64>)>;

/// The states after every layer, counted from the first layer under every profile, and the head's outputs.
fn outputs(args: &Args, directory: &ModelDirectory, head: Head, profile: Profile) -> anyhow::Result<Outputs> {
    let model = directory.load::<f64>(head, profile)?.with_attention(Attention::Reference); // padding is compared, too
    let (inputs, _) = read_inputs(&args.inputs)?;
    let keep = Keep { hidden_states: true, attentions: false };
    let outputs = model
        .forward(&inputs, keep, &mut Trace::off())
        .map_err(|source| deberta_ref::Error::Model { path: args.inputs.clone(), source })?;
    let shift = usize::from(profile.hidden_states_begin_with_embeddings);
    let mut named = Vec::new();
    outputs.for_each(|name, value| {
        let name = match name.strip_prefix("hidden_states.").and_then(|i| i.parse::<usize>().ok()) {
            Some(0) if shift == 1 => "embeddings".to_owned(),
            Some(i) => format!("layer {}", i - shift),
            None => name.to_owned(),
        };
        named.push((name, value.to_owned()));
    });
    Ok(named)
}

/// [B, L], true at padding; `None` where every position is valid or rows say more than positions do. The mask of choices,
/// [B, C, L], has a row for each.
fn padded_positions(args: &Args, head: Head) -> anyhow::Result<Option<ArrayD<bool>>> {
    let (inputs, _) = read_inputs::<f64>(&args.inputs)?;
    let Some(mask) = inputs.attention_mask else { return Ok(None) };
    let axes = if head == Head::MultipleChoice { 3 } else { 2 };
    if mask.ndim() != axes || mask.iter().all(|&v| v != 0) {
        return Ok(None);
    }
    let length = mask.len_of(Axis(axes - 1));
    let rows = mask.len() / length.max(1);
    let padded = mask.as_standard_layout().mapv(|v| v == 0);
    Ok(padded.into_shape_with_order(vec![rows, length]).ok())
}

fn apart(base: &Outputs, found: &Outputs, padded: Option<&ArrayD<bool>>) -> Vec<Apart> {
    let mut rows = Vec::new();
    for (name, expected) in base {
        let Some((_, actual)) = found.iter().find(|(n, _)| n == name) else { continue };
        if expected.shape() != actual.shape() {
            let by_shape = Apart {
                name: format!("{name}, {:?} and {:?}", expected.shape(), actual.shape()),
                valid: f64::NAN,
                padded: None,
            };
            rows.push(by_shape);
            continue;
        }
        let difference = (expected - actual).mapv(f64::abs);
        let max = |values: &mut dyn Iterator<Item = f64>| values.fold(0.0, f64::max);
        let row = match padded.filter(|p| difference.shape().starts_with(p.shape())) {
            Some(padded) => {
                let (mut of_valid, mut of_padded) = (0.0_f64, 0.0_f64);
                for (index, &is_padded) in padded.indexed_iter() {
                    let here = difference.index_axis(Axis(0), index[0]);
                    let here = max(&mut here.index_axis(Axis(0), index[1]).iter().copied());
                    let side = if is_padded { &mut of_padded } else { &mut of_valid };
                    *side = side.max(here);
                }
                Apart { name: name.clone(), valid: of_valid, padded: Some(of_padded) }
            }
            None => Apart { name: name.clone(), valid: max(&mut difference.iter().copied()), padded: None },
        };
        rows.push(row);
    }
    rows
}

fn print_table(args: &Args, head: Head, all: &[(Profile, Result<Vec<Apart>, String>)]) {
    println!("{} ({head}), max |difference| from {}, in f64", args.model.display(), args.from);
    for (profile, outcome) in all {
        println!("\n{profile} ({})", profile.describes);
        let rows = match outcome {
            Ok(rows) => rows,
            Err(error) => {
                println!("  cannot be run: {error}");
                continue;
            }
        };
        let differs = |by: f64| by > ROUNDING || by.is_nan();
        let parts = |a: &&Apart| differs(a.valid) || a.padded.is_some_and(differs);
        match rows.iter().find(parts) {
            None => println!("  the same to rounding"),
            Some(first) => println!("  parts at: {}", first.name),
        }
        println!("  {:<20}  {:>12}  {:>12}", "", "valid", "padded");
        for row in rows {
            let padded = row.padded.map_or_else(|| "–".to_owned(), |p| format!("{p:.2e}"));
            println!("  {:<20}  {:>12}  {padded:>12}", row.name, format!("{:.2e}", row.valid));
        }
    }
}

fn print_json(args: &Args, all: &[(Profile, Result<Vec<Apart>, String>)]) -> anyhow::Result<()> {
    let profiles: serde_json::Map<_, _> = all
        .iter()
        .map(|(profile, outcome)| {
            let value = match outcome {
                Ok(rows) => rows
                    .iter()
                    .map(|r| json!({ "name": r.name, "valid": r.valid, "padded": r.padded }))
                    .collect::<Vec<_>>()
                    .into(),
                Err(error) => json!({ "error": error }),
            };
            (profile.name.to_owned(), value)
        })
        .collect();
    println!("{}", serde_json::to_string_pretty(&json!({ "from": args.from.name, "profiles": profiles }))?);
    Ok(())
}
