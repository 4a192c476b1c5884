//! `deberta-ref run`: a forward pass from a tensor file to a tensor file.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::ValueEnum;
use deberta_checkpoint::Element;
use deberta_ref::{
    DeviceName, Head, Inputs, Keep, ModelDirectory, Place, Precision, Profile, Real, Recorded, Request, read_inputs,
    run as forward,
};
use globset::{Glob, GlobSet, GlobSetBuilder};

use super::note;

/// Runs a forward pass: inputs from a safetensors file, outputs to another.
///
/// Inputs are found by their names in transformers: input_ids [B, L], attention_mask, token_type_ids, position_ids,
/// inputs_embeds, labels, start_positions, end_positions. Outputs have theirs: last_hidden_state, logits, loss, …
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub model: ModelArgs,
    /// The safetensors file that holds the inputs
    #[arg(long, value_name = "IN.safetensors")]
    pub inputs: PathBuf,
    /// The safetensors file to write
    #[arg(long, value_name = "OUT.safetensors")]
    pub outputs: PathBuf,
    /// The number type to compute in: f32 or f64 on the processor; f32, tf32, f16 or bf16 on a GPU
    #[arg(long, default_value = "f32", value_name = "f32|f64|tf32|f16|bf16")]
    pub precision: Precision,
    /// Keep the states after the embeddings and after each layer (hidden_states.N)
    #[arg(long)]
    pub hidden_states: bool,
    /// Keep the attention probabilities of each layer (attentions.N)
    #[arg(long)]
    pub attentions: bool,
    /// Keep the intermediates whose module paths match, such as 'deberta.encoder.layer.0.*' or '*'; may be repeated
    #[arg(long, value_name = "GLOB")]
    pub trace: Vec<String>,
    /// How attention is computed [default: fused, but reference with --trace or --attentions]
    ///
    /// Fused computes no padding: states and logits of padded positions are then zero. Where a result depends on them, where
    /// a mask has holes or a row for each query, it gives way to reference; what is not padding comes out the same.
    #[arg(long)]
    pub attention: Option<Attention>,
    /// Use this many threads; 0: as many as the machine runs at once
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub threads: usize,
    /// Where to compute: the processor, an NVIDIA GPU, or a GPU where there is one
    #[arg(long, default_value = "cpu", value_name = "cpu|cuda|auto")]
    pub device: DeviceName,
}

/// Which model, and as what.
#[derive(clap::Args)]
pub struct ModelArgs {
    /// The model directory: config.json and weights, or a hub cache folder
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    /// What stands on top of the encoder: base, masked-lm, enhanced-masked-lm, sequence-classification,
    /// token-classification, question-answering, multiple-choice or replaced-token-detection [default: what config.json
    /// and the weights say]
    #[arg(long)]
    pub head: Option<Head>,
    /// The reference implementation to follow where they disagree: hf-5, hf-4, microsoft or microsoft-2021
    #[arg(long, default_value = "hf-5", value_parser = parse_profile)]
    pub profile: Profile,
}

impl ModelArgs {
    /// The directory, and the head that was asked for or is its own.
    pub fn open(&self) -> Result<(ModelDirectory, Head), deberta_ref::Error> {
        let directory = ModelDirectory::open(&self.model)?;
        let head = self.head.unwrap_or_else(|| directory.default_head());
        Ok((directory, head))
    }
}

/// The bodies that attention has.
#[derive(Clone, Copy, ValueEnum)]
pub enum Attention {
    /// The equations, term by term
    Reference,
    /// Blocked and on all threads, without padding
    Fused,
}

impl From<Attention> for deberta_ref::Attention {
    fn from(named: Attention) -> Self {
        match named {
            Attention::Reference => Self::Reference,
            Attention::Fused => Self::Fused,
        }
    }
}

impl Args {
    /// The attention that was asked for; the model itself gives way to the reference where that alone can show what is.
    fn attention(&self) -> deberta_ref::Attention {
        let looks_inside = self.attentions || !self.trace.is_empty();
        if looks_inside && matches!(self.attention, Some(Attention::Fused)) {
            note("--trace and --attentions show what --attention fused never computes; reference is used");
        }
        self.attention.map(Into::into).unwrap_or_default()
    }
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    deberta_ref::set_threads(args.threads);
    let (directory, head) = args.model.open()?;
    let request = Request {
        head,
        profile: args.model.profile,
        keep: Keep { hidden_states: args.hidden_states, attentions: args.attentions },
        trace: patterns(&args.trace)?,
        attention: args.attention(),
    };
    let recorded = match args.device.open(args.precision, note)? {
        Place::Cpu if args.precision == Precision::F64 => run_in::<f64>(&args, &directory, &request)?,
        Place::Cpu => run_in::<f32>(&args, &directory, &request)?,
        #[cfg(feature = "cuda")]
        Place::Gpu(gpu, precision) => {
            deberta_ref::run_on(*gpu, precision, &directory, &inputs(&args)?, &args.inputs, &request)?
        }
    };
    recorded.write(&args.outputs, request.metadata(args.precision))?;
    for (name, tensor) in &recorded.entries {
        println!("{name} {} {:?}", tensor.dtype, tensor.shape);
    }
    Ok(ExitCode::SUCCESS)
}

fn run_in<T: Real + Element>(args: &Args, directory: &ModelDirectory, request: &Request) -> anyhow::Result<Recorded> {
    Ok(forward(directory, &inputs::<T>(args)?, &args.inputs, request)?)
}

/// The inputs, after a note on what is none.
fn inputs<T: Real>(args: &Args) -> anyhow::Result<Inputs<T>> {
    let (inputs, ignored) = read_inputs::<T>(&args.inputs)?;
    if !ignored.is_empty() {
        let shown: Vec<&str> = ignored.iter().take(3).map(String::as_str).collect();
        let more = ignored.len().saturating_sub(shown.len());
        let more = if more == 0 { String::new() } else { format!(" and {more} more") };
        note(format_args!("{} also holds {}{more}, which is no input", args.inputs.display(), shown.join(", ")));
    }
    Ok(inputs)
}

/// The patterns of `--trace`. A star crosses dots, so `*` is everything.
pub fn patterns(globs: &[String]) -> anyhow::Result<GlobSet> {
    let mut set = GlobSetBuilder::new();
    for glob in globs {
        set.add(Glob::new(glob).with_context(|| format!("--trace {glob}"))?);
    }
    set.build().context("--trace: too many patterns")
}

/// A profile by its name.
pub fn parse_profile(name: &str) -> Result<Profile, String> {
    let known = || Profile::ALL.map(|p| p.name).join(", ");
    Profile::from_name(name).ok_or_else(|| format!("there is no profile `{name}`; profiles are {}", known()))
}
