//! `deberta-ref bench`: how long a forward pass takes, in seconds and as a share of what the machine's matrix product could do.

mod measure;
mod report;

use std::path::PathBuf;
use std::process::ExitCode;

use deberta_checkpoint::Element;
use deberta_ref::bench::{BatchShape, read_lengths};
use deberta_ref::{DeviceName, Place, Precision, Real};

use super::note;
use super::run::{Attention, ModelArgs};
#[cfg(feature = "cuda")]
use measure::measure_on;
use measure::{Plan, Timing, measure};

/// Time forward passes on random tokens
///
/// For each shape: passes that warm up, then passes that are timed, each followed by a matrix product of the same library
/// on the same threads, so that a busy spell of the machine slows both. The share of the sgemm rate is the operations that
/// the pass must do (matrix products over existing tokens), over the median time, over the median rate of that product.
///
/// The peak of memory is that of the passes, resident and with mapped weights counted; it is known on Linux alone. On a GPU it is
/// what was taken there, and the product is of the precision asked for.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// The shapes of the batches, sequences x tokens [default: 1x16,1x128,1x512,8x128, unless --lengths is given]
    #[arg(long, value_name = "BxL,…", value_delimiter = ',')]
    shapes: Vec<BatchShape>,
    /// A ragged batch as well: a file with the length of one sequence a line
    #[arg(long, value_name = "FILE")]
    lengths: Option<PathBuf>,
    /// Time this many passes of each shape
    #[arg(long, value_name = "N", conflicts_with = "seconds", value_parser = clap::value_parser!(u32).range(1..))]
    repeat: Option<u32>,
    /// Time passes of each shape for this long, and at least three
    #[arg(long, value_name = "S", default_value_t = 5.0, value_parser = seconds)]
    seconds: f64,
    /// The number type to compute in: f32 or f64 on the processor; f32, tf32, f16 or bf16 on a GPU
    #[arg(long, default_value = "f32", value_name = "f32|f64|tf32|f16|bf16")]
    precision: Precision,
    /// How attention is computed
    #[arg(long, default_value = "fused")]
    attention: Attention,
    /// Use this many threads; 0: as many as the machine runs at once
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: usize,
    /// Where to compute: the processor, an NVIDIA GPU, or a GPU where there is one
    #[arg(long, default_value = "cpu", value_name = "cpu|cuda|auto")]
    device: DeviceName,
    /// On a GPU, time passes that were recorded once and are replayed (CUDA graphs)
    #[arg(long)]
    replay: bool,
    /// Print the outcome as JSON: a list with an object a shape
    #[arg(long)]
    json: bool,
}

impl Args {
    /// The batches that were asked for.
    fn shapes(&self) -> Result<Vec<BatchShape>, deberta_ref::Error> {
        let ragged = self.lengths.as_deref().map(read_lengths).transpose()?;
        let mut shapes = self.shapes.clone();
        if shapes.is_empty() && ragged.is_none() {
            shapes.extend(DEFAULT_SHAPES.iter().filter_map(|shape| shape.parse().ok()));
        }
        shapes.extend(ragged);
        Ok(shapes)
    }
}

const DEFAULT_SHAPES: [&str; 4] = ["1x16", "1x128", "1x512", "8x128"];

/// Times every shape and prints a table or JSON.
///
/// # Errors
/// A model that cannot be read, a file of lengths that holds something else, or a batch that the model refuses.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.device.open(args.precision, note)? {
        Place::Cpu if args.precision == Precision::F64 => run_in::<f64>(&args),
        Place::Cpu => run_in::<f32>(&args),
        #[cfg(feature = "cuda")]
        Place::Gpu(gpu, precision) => run_on(&args, *gpu, precision),
    }
}

fn run_in<T: Real + Element>(args: &Args) -> anyhow::Result<ExitCode> {
    let shapes = args.shapes()?;
    let (directory, head) = args.model.open()?;
    deberta_ref::set_threads(args.threads);
    let model = directory.load::<T>(head, args.model.profile)?.with_attention(args.attention.into());
    let plan = Plan { repeat: args.repeat, seconds: args.seconds };
    let mut timings = Vec::with_capacity(shapes.len());
    for shape in &shapes {
        let timing = measure(&model, shape, &plan);
        timings.push(timing.map_err(|source| deberta_ref::Error::Model { path: args.model.model.clone(), source })?);
    }
    let place = format!("{} threads", deberta_ref::threads());
    print(args, &timings, &report::title(args, head, model.config(), &place));
    Ok(ExitCode::SUCCESS)
}

#[cfg(feature = "cuda")]
fn run_on(args: &Args, gpu: deberta_cuda::CudaDevice, precision: deberta_cuda::Precision) -> anyhow::Result<ExitCode> {
    let shapes = args.shapes()?;
    let (directory, head) = args.model.open()?;
    let place = gpu.name()?;
    let mut model = directory.load_on(gpu, precision, head, args.model.profile)?;
    model.replay_shapes(usize::from(args.replay));
    let plan = Plan { repeat: args.repeat, seconds: args.seconds };
    let timings = shapes.iter().map(|shape| measure_on(&model, shape, &plan)).collect::<Result<Vec<_>, _>>()?;
    print(args, &timings, &report::title(args, head, model.config(), &place));
    Ok(ExitCode::SUCCESS)
}

fn print(args: &Args, timings: &[Timing], title: &str) {
    match args.json {
        true => println!("{}", report::json(timings)),
        false => print!("{}", report::table(timings, title)),
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse::<f64>().ok().filter(|s| s.is_finite() && *s >= 0.0);
    seconds.ok_or_else(|| format!("`{text}` is no number of seconds"))
}
