//! `deberta-ref compare`: two dumps, tensor by tensor, in the order of computation.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use deberta_ref::{Head, KnownWeights, ModelDirectory, Profile, open_dump};
use deberta_verify::adapt::Renames;
use deberta_verify::report::{self, Style};
use deberta_verify::{Comparison, Dump, Knowledge, Options, Verdict};

use super::naming::NamingArgs;

/// Compare two tensor files; name the first tensor that diverges and the likely cause.
///
/// Each is safetensors, NumPy's .npz, a folder of .npy, the JSON of transformers' model-addition debugger, or what torch.save
/// writes.
///
/// Tensors are matched by name (module paths of Hugging Face's DeBERTa-v2, hidden_states.N, logits, …) and compared in
/// the order of computation. What a tensor may be off by follows from the dtypes and from the noise of the tensors that
/// it is computed from. Exit code 0: within budget; 1: beyond; 2: not comparable.
#[derive(clap::Args)]
pub struct Args {
    /// What is right.
    #[arg(value_name = "EXPECTED")]
    expected: PathBuf,
    /// What is asked about.
    #[arg(value_name = "ACTUAL")]
    actual: PathBuf,
    /// The reference's own f32 run, where EXPECTED is its f64 run: budgets become a multiple of the distance of the two.
    #[arg(long, value_name = "FILE")]
    reference: Option<PathBuf>,
    /// The model that EXPECTED comes from: with its weights, more mistakes can be told from one another.
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// What stands on top of the encoder of --model [default: what config.json and the weights say]
    #[arg(long, requires = "model")]
    head: Option<Head>,
    /// Rename the tensors of EXPECTED too
    #[arg(long, value_name = "RULES")]
    rename_expected: Option<PathBuf>,
    #[command(flatten)]
    naming: NamingArgs,
    #[command(flatten)]
    shown: Shown,
}

/// What `compare` and `verify` have in common: tolerances, and the ways to show the outcome.
#[derive(clap::Args)]
pub struct Shown {
    /// Allow RTOL times the expected value, instead of the budgets.
    #[arg(long, value_name = "RTOL", value_parser = tolerance)]
    rtol: Option<f64>,
    /// Allow ATOL, instead of the budgets; adds to --rtol.
    #[arg(long, value_name = "ATOL", value_parser = tolerance)]
    atol: Option<f64>,
    /// Leave padded positions out, as the attention mask has them.
    #[arg(long)]
    ignore_padding: bool,
    /// Print the outcome as JSON.
    #[arg(long)]
    json: bool,
    /// Write the outcome as one self-contained HTML page.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Show every tensor, also where many are within budget.
    #[arg(long)]
    all: bool,
}

fn tolerance(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(x) if x >= 0.0 && x.is_finite() => Ok(x),
        _ => Err("a tolerance is a number, 0 or above".to_owned()),
    }
}

impl Shown {
    /// Whether the outcome is to be JSON.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// The options of the comparison.
    pub fn options<'a>(&self, reference: Option<&'a Dump>, knowledge: Option<&'a Knowledge<'a>>) -> Options<'a> {
        Options {
            rtol: self.rtol,
            atol: self.atol,
            reference,
            ignore_padding: self.ignore_padding,
            heat_maps: if self.html.is_some() { 6 } else { 0 },
            knowledge,
        }
    }

    /// Shows the outcome as asked, and gives the exit code that says it.
    ///
    /// # Errors
    /// The HTML file or standard output cannot be written.
    pub fn show(&self, comparison: &Comparison) -> anyhow::Result<ExitCode> {
        if let Some(path) = &self.html {
            std::fs::write(path, report::render_html(comparison))
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        let mut out = std::io::stdout().lock();
        let text = if self.json {
            report::render_json(comparison) + "\n"
        } else {
            let color = out.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
            report::render_table(comparison, Style { color, all: self.all })
        };
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            // Whoever reads may stop early: `deberta-ref compare … | head`.
            Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => return Err(e).context("cannot write the outcome"),
            _ => {}
        }
        Ok(ExitCode::from(match comparison.verdict() {
            Verdict::Within => 0,
            Verdict::Beyond => 1,
            Verdict::Incomparable => 2,
        }))
    }
}

/// Compares, and shows the outcome.
///
/// # Errors
/// A file cannot be read, or the two have nothing in common.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    super::reuse_memory();
    super::leave_threads_to_comparison();
    let mut expected = open_dump(&args.expected)?;
    let mut actual = open_dump(&args.actual)?;
    if let Some(rules) = args.rename_expected.as_deref().map(Renames::read).transpose()? {
        rules.apply(&mut expected)?;
    }
    let renamed = args.naming.rename(&mut actual)?;
    args.naming.adapt(&expected, &mut actual, renamed)?;
    let reference = args.reference.as_deref().map(open_dump).transpose()?;
    let directory = args.model.as_deref().map(ModelDirectory::open).transpose()?;
    let weights = directory
        .as_ref()
        .map(|d| KnownWeights::new(d, args.head.unwrap_or_else(|| d.default_head()), &Profile::default()))
        .transpose()?;
    let knowledge = weights.as_ref().map(KnownWeights::knowledge);
    let options = args.shown.options(reference.as_ref(), knowledge.as_ref());
    let compared = deberta_verify::compare(&expected, &actual, &options);
    match compared {
        Ok(comparison) => args.shown.show(&comparison),
        Err(error) => {
            if args.shown.json {
                println!("{}", report::incomparable_json(&error));
            }
            Err(error.into())
        }
    }
}
