//! The program `deberta-ref`. Each command is a module of [`commands`]; this file only knows their names.

mod commands;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A readable, verified reference implementation of DeBERTa-v2 and v3.
#[derive(Parser)]
#[command(name = "deberta-ref", version, about, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Run(commands::run::Args),
    Profiles(commands::profiles::Args),
    CompareProfiles(commands::compare_profiles::Args),
    Verify(commands::verify::Args),
    Compare(commands::compare::Args),
    Tokenize(Box<commands::tokenize::Args>),
    Decode(commands::decode::Args),
    Inspect(commands::inspect::Args),
    Bench(commands::bench::Args),
    RandomModel(commands::random_model::Args),
    FillMask(Box<commands::text::fill_mask::Args>),
    Classify(Box<commands::text::classify::Args>),
    Tag(Box<commands::text::tag::Args>),
    Answer(Box<commands::text::answer::Args>),
    Choose(Box<commands::text::choose::Args>),
    Embed(Box<commands::text::embed::Args>),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome: anyhow::Result<ExitCode> = match cli.command {
        Command::Run(args) => commands::run::run(args),
        Command::Profiles(args) => commands::profiles::run(args),
        Command::CompareProfiles(args) => commands::compare_profiles::run(args),
        Command::Verify(args) => commands::verify::run(args),
        Command::Compare(args) => commands::compare::run(args),
        Command::Tokenize(args) => commands::tokenize::run(*args),
        Command::Decode(args) => commands::decode::run(args),
        Command::Inspect(args) => commands::inspect::run(args),
        Command::Bench(args) => commands::bench::run(args),
        Command::RandomModel(args) => commands::random_model::run(args),
        Command::FillMask(args) => commands::text::fill_mask::run(*args),
        Command::Classify(args) => commands::text::classify::run(*args),
        Command::Tag(args) => commands::text::tag::run(*args),
        Command::Answer(args) => commands::text::answer::run(*args),
        Command::Choose(args) => commands::text::choose::run(*args),
        Command::Embed(args) => commands::text::embed::run(*args),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("deberta-ref: {}", sentence(&error));
            ExitCode::from(2)
        }
    }
}

/// An error and its causes as one sentence. Errors of the libraries already say what caused them, so a cause is added
/// only where it says something new.
fn sentence(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |said, cause| {
        let cause = cause.to_string();
        match said.is_empty() {
            true => cause,
            false if said.contains(&cause) => said,
            false => format!("{said}: {cause}"),
        }
    })
}
