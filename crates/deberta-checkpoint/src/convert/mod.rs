//! From a checkpoint of any format to safetensors, with proof.
//!
//! 1. `plan`: which tensors are written under which names, and what becomes of the rest. Nothing is read but headers.
//! 2. `write`: each file is written under no name, or under a temporary one beside the output.
//! 3. `proof`: each is opened anew and compared to the bit with the source.
//! 4. Only then do they get their names.

mod config;
mod dtype;
mod output;
mod plan;
mod proof;
mod report;
mod write;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use deberta_model::{DebertaV2Config, Head};
use serde::Serialize;

pub use report::{ConfigReport, Dropped, FileReport, Report, TensorReport};

use crate::checkpoint::Checkpoint;
use crate::error::Error;

/// The type that floating-point tensors get.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OutputDtype {
    /// The source's.
    #[default]
    Keep,
    /// Single precision.
    F32,
    /// Half precision.
    F16,
    /// bfloat16.
    BF16,
}

/// Whose names the output uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Names {
    /// Hugging Face's.
    #[default]
    Hf,
    /// Microsoft's.
    Microsoft,
    /// The source's own; nothing is renamed, rearranged or left out.
    Keep,
}

/// What becomes of tensors that the schema does not know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Unknown {
    /// Kept where they lie beside the model's own tensors (another head); dropped where they lie elsewhere (an optimizer).
    #[default]
    Auto,
    /// Kept, under their own names.
    Keep,
    /// Dropped.
    Drop,
}

/// What to convert, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// A checkpoint as [`Checkpoint::open`] takes it.
    pub source: PathBuf,
    /// A file ending in `.safetensors`, or a model directory to be made.
    pub output: PathBuf,
    /// A `config.json` to use instead of the one beside the source.
    pub config: Option<PathBuf>,
    /// Of a file that holds several models, which: `discriminator` or `generator`; `None`: the discriminator.
    pub part: Option<String>,
    /// The type of floating-point tensors.
    pub dtype: OutputDtype,
    /// Whose names.
    pub names: Names,
    /// What becomes of tensors that the schema does not know.
    pub unknown: Unknown,
    /// The largest file, in bytes; `None`: 5 GB for a directory, no limit for a file.
    pub max_shard_size: Option<u64>,
    /// Replace an output that exists.
    pub force: bool,
    /// Read the output back and compare it.
    pub proof: bool,
    /// Compute the hashes of source, output and each tensor.
    pub hashes: bool,
    /// Stop after planning.
    pub dry_run: bool,
}

/// What a conversion tells while it runs, and asks.
pub trait Progress: Sync {
    /// A phase of the work begins; it will handle this many bytes.
    fn begin(&self, phase: &'static str, bytes: u64);
    /// So many more bytes are done.
    fn advance(&self, bytes: u64);
}

/// Says nothing.
impl Progress for () {
    fn begin(&self, _phase: &'static str, _bytes: u64) {}
    fn advance(&self, _bytes: u64) {}
}

/// The source and the output, both open, before the output gets its name.
pub struct BothSides<'b> {
    /// The source.
    pub source: &'b Checkpoint,
    /// What the names of the source's model begin with; empty where the file holds one model.
    pub part: &'b str,
    /// The output.
    pub output: &'b Checkpoint,
    /// The model's configuration, and its head; `None` where names are kept.
    pub model: Option<(&'b DebertaV2Config, Head)>,
}

/// A further look at both sides: what it finds wrong keeps the output from getting its name.
pub type FurtherProof<'p> = &'p dyn Fn(&BothSides<'_>) -> Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// The run at hand: where progress goes, and whether to stop.
pub(crate) struct Run<'r> {
    pub progress: &'r dyn Progress,
    pub stop: &'r AtomicBool,
}

impl Run<'_> {
    pub fn advance(&self, bytes: usize) -> Result<(), Error> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(Error::Interrupted);
        }
        self.progress.advance(bytes as u64);
        Ok(())
    }
}

/// How much is read, written or compared between two looks at whether to stop.
pub(crate) const CHUNK: usize = 4 << 20;

/// Converts, proves, and gives the output its name. `stop` may be set at any time, from a signal handler.
///
/// # Errors
/// Each names the file, tensor or key and what to do; after any of them there is no output.
pub fn convert(options: &Options, progress: &dyn Progress, stop: &AtomicBool) -> Result<Report, Error> {
    convert_and(options, progress, stop, None)
}

/// The same with a further proof, made after the comparison and before the output gets its name.
///
/// # Errors
/// The same, and [`Error::FurtherProof`].
pub fn convert_and(
    options: &Options,
    progress: &dyn Progress,
    stop: &AtomicBool,
    further: Option<FurtherProof<'_>>,
) -> Result<Report, Error> {
    let run = Run { progress, stop };
    let target = output::Target::new(&options.output)?;
    let checkpoint = Checkpoint::open(&options.source)?;
    target.check(&checkpoint, options.force)?;
    let plan = plan::plan(&checkpoint, options, &target)?;
    let mut report = Report::new(&checkpoint, options, &plan);
    if options.dry_run {
        return Ok(report);
    }
    let folder = target.staging()?;
    let source_hashes = std::thread::scope(|scope| -> Result<_, Error> {
        let hasher = options.hashes.then(|| scope.spawn(|| proof::hash_sources(&checkpoint, &run)));
        let written = write::write_all(&checkpoint, &plan, &folder, &run);
        let written = match written {
            Ok(written) => written,
            Err(error) => {
                stop.store(true, Ordering::Relaxed);
                return Err(error);
            }
        };
        let hashes = hasher.map(|h| h.join().unwrap_or(Err(Error::Interrupted))).transpose()?;
        Ok((written, hashes))
    });
    let (written, source_hashes) = source_hashes?;
    if options.proof || options.hashes {
        let found = proof::prove(&checkpoint, &plan, &written, options, &run)?;
        report.record(source_hashes, found);
    }
    if let Some(further) = further {
        let paths = written.iter().map(|w| w.partial.open_anew());
        let paths: Vec<PathBuf> = paths.map(|p| p.map(|p| p.path().to_owned())).collect::<Result<_, _>>()?;
        let output = Checkpoint::open_files(&options.output, &paths)?;
        let model = plan.model.as_ref().map(|(config, head)| (config, *head));
        let sides = BothSides { source: &checkpoint, part: plan.part, output: &output, model };
        further(&sides).map_err(|source| Error::FurtherProof { path: options.output.clone(), source })?;
    }
    if stop.load(Ordering::Relaxed) {
        return Err(Error::Interrupted);
    }
    target.publish(&plan, folder, written, options.force)?;
    Ok(report)
}

/// The configuration of a checkpoint, completed from it, and where it is from.
pub(crate) fn config_of(
    checkpoint: &Checkpoint,
    source: &Path,
    part: &str,
    names: &crate::name_map::Names,
) -> Result<(DebertaV2Config, String), Error> {
    let mut found = config::find(checkpoint, source, None, part, names)?;
    config::complete(&mut found, part, names);
    Ok((config::parse(&found)?, found.from))
}

/// Where a model's other files lie: the source itself if it is a folder, else the folder around it.
pub(crate) fn companion_folder(source: &Path) -> Result<PathBuf, Error> {
    if source.is_dir() {
        return crate::locate::model_directory(source);
    }
    Ok(source.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned())
}
