//! `deberta-ref profiles`: what each profile does in the places where the references disagree.

use std::process::ExitCode;

use deberta_ref::Profile;
use deberta_ref::profile::{BucketLog, Hidden, LanguageModelLoss, ScaleRounding};

/// Show the profiles: what each reference implementation does where they disagree.
#[derive(clap::Args)]
pub struct Args {
    /// Print the table as JSON
    #[arg(long)]
    json: bool,
}

/// One point of disagreement: what it is about, and what a profile does there.
type Point = (&'static str, fn(&Profile) -> String);

const POINTS: [Point; 11] = [
    ("describes", |p| p.describes.to_owned()),
    ("a query row that is padding", |p| {
        match p.hidden_scores {
            Hidden::LowestFinite => "uniform over all keys, padding included",
            Hidden::Zeroed => "zero",
        }
        .to_owned()
    }),
    ("row maximum subtracted", |p| when(p.centers_before_masking, "before masking too", "after masking")),
    ("distances beyond the range", |p| when(p.clamps_distance, "held to max − 1", "formula goes on, row clamped")),
    ("logarithm of the buckets", |p| {
        match p.bucket_log {
            BucketLog::F32 => "f32",
            BucketLog::F32OverF64 => "f32, denominator in f64",
            BucketLog::F64 => "f64",
        }
        .to_owned()
    }),
    ("scale √(D·f)", |p| {
        match p.scale_rounding {
            ScaleRounding::F32 => "rounded to f32",
            ScaleRounding::Model => "in the model's type",
        }
        .to_owned()
    }),
    ("sum of the embeddings", |p| when(p.adds_positions_first, "word + position + type", "word + type + position")),
    ("list of hidden states", |p| {
        when(p.hidden_states_begin_with_embeddings, "begins with the embeddings", "begins with layer 0")
    }),
    ("masked-lm loss", |p| {
        match p.language_model_loss {
            LanguageModelLoss::MeanOverLabelled => "mean over labels ≠ −100",
            LanguageModelLoss::EachPositiveLabel => "one a label > 0",
        }
        .to_owned()
    }),
    ("token labels left out", |p| when(p.ignores_negative_labels, "all below 0", "−100")),
    ("a choice is pooled", |p| {
        when(p.pools_choices_by_attention, "by attention from its first token", "by the pooler")
    }),
];

fn when(condition: bool, yes: &str, no: &str) -> String {
    (if condition { yes } else { no }).to_owned()
}

/// Prints the table.
///
/// # Errors
/// None.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    if args.json {
        let profiles: serde_json::Map<_, _> = Profile::ALL
            .iter()
            .map(|profile| {
                let points: serde_json::Map<_, _> =
                    POINTS.iter().map(|(name, of)| ((*name).to_owned(), of(profile).into())).collect();
                (profile.name.to_owned(), points.into())
            })
            .collect();
        println!("{}", serde_json::to_string_pretty(&profiles)?);
        return Ok(ExitCode::SUCCESS);
    }
    for (name, of) in POINTS {
        println!("{name}");
        // Profiles that agree share a line.
        let mut shown: Vec<(String, Vec<&str>)> = Vec::new();
        for profile in &Profile::ALL {
            let does = of(profile);
            match shown.iter_mut().find(|(other, _)| *other == does) {
                Some((_, names)) => names.push(profile.name),
                None => shown.push((does, vec![profile.name])),
            }
        }
        for (does, names) in shown {
            println!("  {:<32}  {does}", names.join(", "));
        }
    }
    println!("\nThe default is {}. docs/profiles.md walks through each point.", Profile::default());
    Ok(ExitCode::SUCCESS)
}
