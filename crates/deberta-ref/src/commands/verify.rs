//! `deberta-ref verify`: the model's own intermediates against somebody else's, in one.

mod scratch;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;

use deberta_checkpoint::Element;
use deberta_ref::{
    DeviceName, Head, Inputs, Keep, KnownWeights, ModelDirectory, Observer, Outputs, Place, Precision, Real, Trace,
    inputs_of, open_dump,
};
use deberta_verify::adapt::spellings;
use deberta_verify::order::{self, Position, Role, canonical};
use deberta_verify::report::incomparable_json;
use deberta_verify::{Dump, Tensor, compare};
use ndarray::{ArrayView, ArrayViewD, Dimension};

use super::compare::Shown;
use super::naming::NamingArgs;
use super::note;
use super::run::ModelArgs;
use scratch::Scratch;

/// Run a model on the inputs that a file holds, and compare with the rest of it.
///
/// FILE is a dump of another implementation: the inputs, and as many outputs and intermediates as there are, by the names
/// that `deberta-ref run --trace '*'` gives them, or by others: see --rename. Exit code 0: within budget; 1: beyond; 2: not comparable.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// The file or folder with inputs and outputs: safetensors, .npz, .npy, the debugger's JSON, torch.save
    #[arg(long, value_name = "FILE")]
    golden: PathBuf,
    /// The number type to compute in: f32 or f64 on the processor; f32, tf32, f16 or bf16 on a GPU
    #[arg(long, default_value = "f64", value_name = "f32|f64|tf32|f16|bf16")]
    precision: Precision,
    /// Where to compute: the processor, an NVIDIA GPU, or a GPU where there is one
    #[arg(long, default_value = "cpu", value_name = "cpu|cuda|auto")]
    device: DeviceName,
    /// The reference's own f32 run, where FILE is its f64 run: budgets become a multiple of the distance of the two
    #[arg(long, value_name = "FILE")]
    reference: Option<PathBuf>,
    #[command(flatten)]
    naming: NamingArgs,
    /// Use this many threads; 0: as many as the machine runs at once
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: usize,
    #[command(flatten)]
    shown: Shown,
}

/// Runs, compares, and shows the outcome.
///
/// # Errors
/// A model or file that cannot be read, inputs that do not fit, or nothing to compare.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    super::reuse_memory();
    let outcome = verify(&args);
    if let (true, Err(error)) = (args.shown.is_json(), &outcome)
        && let Some(error) = error.downcast_ref()
    {
        println!("{}", incomparable_json(error));
    }
    outcome
}

fn verify(args: &Args) -> anyhow::Result<ExitCode> {
    deberta_ref::set_threads(args.threads);
    // The comparison's threads. It fails where they run already, and then there are as many as there are.
    let _ = rayon::ThreadPoolBuilder::new().num_threads(args.threads).build_global();
    let mut golden = open_dump(&args.golden)?;
    let renamed = args.naming.rename(&mut golden)?;
    let (directory, head) = args.model.open()?;
    let ours = match args.device.open(args.precision, note)? {
        Place::Cpu if args.precision == Precision::F64 => on_cpu::<f64>(args, &golden, &directory, head)?,
        Place::Cpu => on_cpu::<f32>(args, &golden, &directory, head)?,
        #[cfg(feature = "cuda")]
        Place::Gpu(gpu, precision) => {
            let model = directory.load_on(*gpu, precision, head, args.model.profile)?;
            // A golden holds padded rows too.
            let forward = |inputs: &Inputs<f32>, keep, trace: &mut Trace<'_, f32>| {
                model.forward_whole(inputs, keep, trace).map_err(deberta_ref::Error::from)
            };
            computed(args, head, &golden, forward)?
        }
    };
    super::leave_threads_to_comparison();
    args.naming.adapt(&ours, &mut golden, renamed)?;
    let reference = args.reference.as_deref().map(open_dump).transpose()?;
    // Ours is what is expected: the question is what the other implementation did.
    let weights = KnownWeights::new(&directory, head, &args.model.profile)?;
    let knowledge = weights.knowledge();
    let mut comparison = compare(&ours, &golden, &args.shown.options(reference.as_ref(), Some(&knowledge)))?;
    comparison.only_expected.retain(|name| !USED_BY_BUDGETS.contains(&name.as_str()));
    args.shown.show(&comparison)
}

fn on_cpu<T: Real + Element>(
    args: &Args,
    golden: &Dump,
    directory: &ModelDirectory,
    head: Head,
) -> anyhow::Result<Dump> {
    let model = directory.load::<T>(head, args.model.profile)?;
    // What was widened is not needed again, and what was not is read from the file again.
    directory.checkpoint().tensors().for_each(|tensor| directory.checkpoint().release(tensor));
    computed(args, head, golden, |inputs, keep, trace| {
        // The trace hands out the probabilities as it goes.
        let outputs = model.forward(inputs, Keep { attentions: false, ..keep }, trace);
        outputs.map_err(|source| deberta_ref::Error::Model { path: args.golden.clone(), source })
    })
}

/// What our model computes, as far as the golden holds it too.
fn computed<T: Real>(
    args: &Args,
    head: Head,
    golden: &Dump,
    forward: impl FnOnce(&Inputs<T>, Keep, &mut Trace<'_, T>) -> Result<Outputs<T>, deberta_ref::Error>,
) -> anyhow::Result<Dump> {
    let (inputs, _): (Inputs<T>, _) = inputs_of(golden, &args.golden)?;
    let wanted = Wanted::of(golden, args.naming.guesses());
    let keep =
        Keep { hidden_states: wanted.any_starts("hidden_states."), attentions: wanted.any_starts("attentions.") };
    let source = format!("{} ({head}, {}, {})", args.model.model.display(), args.model.profile, args.precision);
    let mut recorder = Recorder { wanted: &wanted, dump: Dump::new(source), scratch: Scratch::default() };
    let outputs = forward(&inputs, keep, &mut Trace::to(&mut recorder))?;
    let Recorder { mut dump, mut scratch, .. } = recorder;
    for name in INPUTS_USED_BY_REPORTS {
        if let Some(mask) = golden.get(name) {
            dump.insert(name, mask.clone());
        }
    }
    outputs.for_each(|name, value| dump.insert_once(name, tensor(&value), |t| scratch.keep(t)));
    Ok(dump)
}

/// What the budget of the embeddings follows from, whether or not the golden holds it.
const USED_BY_BUDGETS: [&str; 4] = [
    "deberta.embeddings.word_embeddings",
    "deberta.embeddings.position_embeddings",
    "deberta.embeddings.token_type_embeddings",
    "deberta.embeddings.embed_proj",
];

/// Inputs that a comparison looks at to tell valid positions from padded ones.
const INPUTS_USED_BY_REPORTS: [&str; 1] = ["attention_mask"];

/// What of our own computation may have a counterpart.
struct Wanted {
    /// By name, in one spelling.
    names: BTreeSet<String>,
    /// By the number of elements, where a foreign name may be guessed.
    sizes: BTreeSet<usize>,
}

impl Wanted {
    fn of(golden: &Dump, guess: bool) -> Self {
        let foreign = |(name, tensor): (&str, &Tensor)| {
            let spelled = || spellings(golden, name).iter().any(|s| Position::of(s).is_known());
            let known = order::role(name) == Role::Input || order::is_repeat(name) || spelled();
            (guess && !known).then(|| tensor.len())
        };
        Self {
            names: golden.iter().flat_map(|(name, _)| spellings(golden, name)).collect(),
            sizes: golden.iter().filter_map(foreign).collect(),
        }
    }

    fn holds(&self, path: &str) -> bool {
        self.names.contains(&canonical(path)) || USED_BY_BUDGETS.contains(&path)
    }

    fn any_starts(&self, start: &str) -> bool {
        self.names.iter().any(|name| name.starts_with(start))
    }
}

struct Recorder<'a> {
    wanted: &'a Wanted,
    dump: Dump,
    scratch: Scratch,
}

/// The name among the outputs of what a layer's attention computes.
fn among_outputs(path: &str) -> Option<String> {
    let layer = path.strip_prefix("deberta.encoder.layer.")?.strip_suffix(".attention.self.probs")?;
    Some(format!("attentions.{layer}"))
}

impl<T: Real> Observer<T> for Recorder<'_> {
    fn wants(&self, path: &str) -> bool {
        let also = || among_outputs(path).is_some_and(|name| self.wanted.holds(&name));
        !self.wanted.sizes.is_empty() || self.wanted.holds(path) || also()
    }

    fn observe(&mut self, path: &str, value: ArrayViewD<'_, T>) {
        let mut keep = |name: &str, wanted: bool| {
            if wanted {
                self.dump.insert_once(name, tensor(&value), |t| self.scratch.keep(t));
            }
        };
        keep(path, self.wanted.holds(path) || self.wanted.sizes.contains(&value.len()));
        if let Some(name) = among_outputs(path) {
            keep(&name, self.wanted.any_starts("attentions."));
        }
    }
}

fn tensor<T: Real, D: Dimension>(value: &ArrayView<'_, T, D>) -> Tensor {
    if <T as Real>::NAME == "f32" {
        Tensor::map_f32(value, |v| <f32 as Real>::of(v.wide()))
    } else {
        Tensor::map_f64(value, |v| v.wide())
    }
}
