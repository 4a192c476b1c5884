//! The parity suite: every fixture of every set, on a device, against the same model in `f64` on the processor.
//!
//! Each case runs twice. Whole: padded rows are computed too, and every output has to be that of `f64`, every hidden
//! state and probability included. Packed: padding is skipped as far as nothing depends on it, and what is not padding
//! has to be the same.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use deberta_cuda::{CudaError, Device, Precision, ops::Rung};
use deberta_ref::{Attention, Error, Head, Inputs, Keep, ModelDirectory, Outputs, Profile, Real, Trace, read_inputs};
use deberta_testkit::{Case, Manifest};
use ndarray::{Array2, ArrayD, Dimension};

/// The sets of goldens whose inputs are run.
pub const SETS: [&str; 3] = ["hf", "hf4", "microsoft"];

/// How far an output in `f32` may be from `f64`, times the largest number in it where that is above 1. States are layer
/// norms of order one, of which `f32` holds seven digits; this leaves two of them to some hundred sums on the way.
pub const BOUND_F32: f64 = 2e-5;

/// The same for the shorter types where PyTorch's own error was not measured: units of the last place of the type, of order-one
/// states, that a handful of layers may add up to. Half of one is the rounding of the output itself. Probabilities are not held to
/// it, as a softmax makes more of the error of a state: they are held to what PyTorch's came to at most where they were measured.
pub const UNITS: f64 = 16.0;

/// The same for the context of attention alone ([`apart`]).
pub const ATTENTION_UNITS: f64 = 2.0;

/// How many times PyTorch's own error in the same precision an output may be off, where that was measured
/// (`tools/goldens/half.py`): the same noise in another order.
pub const HALF_FACTOR: f64 = 3.0;

/// A unit in the last place of 1, in the types that are shorter than `f32`.
fn unit(precision: Precision) -> Option<f64> {
    match precision {
        Precision::F32 => None,
        Precision::Tf32 | Precision::F16 => Some(2f64.powi(-11)),
        Precision::Bf16 => Some(2f64.powi(-8)),
    }
}

/// The bound on an output whose largest number is `largest`, and on which PyTorch is `theirs` off.
pub fn bound(precision: Precision, largest: f64, theirs: Option<f64>) -> f64 {
    let Some(unit) = unit(precision) else {
        return BOUND_F32 * largest.max(1.0);
    };
    theirs.map_or(UNITS * unit * largest.max(1.0), |theirs| HALF_FACTOR * theirs.max(unit * largest))
}

/// How far a context of attention alone is from `exact`, and how far it may be. Operands are exact as they are stored, so in the
/// shorter types a probability and the context are each rounded once, by half a unit, and in TF32 both factors of every product.
pub fn apart(exact: &Array2<f64>, context: &Array2<f32>, precision: Precision) -> (f64, f64) {
    let largest = exact.fold(0.0_f64, |largest, v| largest.max(v.abs()));
    let differences = exact.iter().zip(context).map(|(e, &c)| (e - f64::from(c)).abs());
    let apart = differences.fold(0.0_f64, |most, d| if d.is_nan() { f64::INFINITY } else { most.max(d) });
    (apart, unit(precision).map_or(BOUND_F32, |unit| ATTENTION_UNITS * unit) * largest.max(1.0))
}

/// What the outputs that are probabilities are named.
const PROBABILITIES: &str = "attentions.";

/// PyTorch's own errors on a case, by precision and output.
type Errors = BTreeMap<String, BTreeMap<String, f64>>;

#[derive(serde::Deserialize)]
struct HalfErrors {
    cases: BTreeMap<String, Errors>,
}

/// A case of a set, its model and its inputs.
pub struct Subject {
    /// `set/model/case`.
    pub name: String,
    directory: ModelDirectory,
    head: Head,
    profile: Profile,
    inputs: PathBuf,
    half: Errors,
    /// PyTorch's largest error of a probability on any case, by precision.
    half_probability: BTreeMap<String, f64>,
    /// Every output in `f64`, padding, states and probabilities included; computed when it is first asked for.
    exact: OnceCell<BTreeMap<String, ArrayD<f64>>>,
}

/// How far one output of one case is from `f64`.
#[derive(Clone, Debug)]
pub struct Finding {
    /// The case, and how it was run.
    pub case: String,
    /// The output.
    pub output: String,
    /// The largest difference; infinite where shapes, NaNs or infinities differ.
    pub max_abs: f64,
    /// What is allowed.
    pub bound: f64,
}

impl Finding {
    /// Whether the difference is allowed.
    pub fn is_fine(&self) -> bool {
        self.max_abs <= self.bound
    }
}

/// Every case of the sets in `fixtures` that `wanted` asks for by its name.
///
/// # Errors
/// A model directory that cannot be opened.
pub fn subjects(fixtures: &Path, wanted: impl Fn(&str) -> bool) -> Result<Vec<Subject>, Error> {
    let path = fixtures.join("half/hf.json");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut half: HalfErrors = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut half_probability = BTreeMap::new();
    for (precision, errors) in half.cases.values().flatten() {
        let largest: &mut f64 = half_probability.entry(precision.clone()).or_default();
        let probabilities = errors.iter().filter(|(output, _)| output.starts_with(PROBABILITIES));
        *largest = probabilities.fold(*largest, |largest, (_, &error)| largest.max(error));
    }
    let mut all = Vec::new();
    for set in SETS {
        let manifest = Manifest::read(&fixtures.join(set));
        for case in manifest.cases.iter().filter(|case| case.head != "attention") {
            let name = format!("{set}/{}", case.name);
            if wanted(&name) {
                let half = if set == "hf" { half.cases.remove(&case.name).unwrap_or_default() } else { Errors::new() };
                let half_probability = half_probability.clone();
                all.push(Subject { half, half_probability, ..Subject::open(&manifest.folder, case, name)? });
            }
        }
    }
    Ok(all)
}

impl Subject {
    fn open(folder: &Path, case: &Case, name: String) -> Result<Self, Error> {
        Ok(Self {
            directory: ModelDirectory::open(&folder.join(&case.model))?,
            head: case.head.parse().unwrap_or_else(|problem| panic!("{name}: {problem}")),
            profile: Profile::from_name(&case.profile).unwrap_or_else(|| panic!("{name}: no profile {}", case.profile)),
            inputs: folder.join(&case.golden["f64"]),
            half: Errors::new(),
            half_probability: BTreeMap::new(),
            exact: OnceCell::new(),
            name,
        })
    }

    /// The size of its model's heads.
    pub fn head_size(&self) -> usize {
        self.directory.config(self.head).head_size()
    }

    /// The same model on `device`, and how far its outputs are from `f64`; nothing where the chosen kernel of attention does
    /// not serve the model or the mask.
    ///
    /// # Errors
    /// What the device cannot do.
    pub fn check<D: Device>(
        &self,
        device: D,
        precision: Precision,
        rung: Option<Rung>,
    ) -> Result<Vec<Finding>, Box<dyn std::error::Error>> {
        let exact = match self.exact.get() {
            Some(exact) => exact,
            None => {
                let exact = self.exact()?;
                self.exact.get_or_init(|| exact)
            }
        };
        let keep = Keep { hidden_states: true, attentions: rung.is_none_or(|rung| rung == Rung::Plain) };
        let mut model = self.directory.load_on(device, precision, self.head, self.profile)?;
        model.choose_rung(rung);
        let (inputs, _): (Inputs<f32>, _) = read_inputs(&self.inputs)?;
        let mut findings = Vec::new();
        if let Some(whole) = served(model.forward_whole(&inputs, keep, &mut Trace::off()))? {
            findings.extend(self.compare("whole", exact, &named(&whole), precision, |_, _| true));
        }
        let keep = Keep { hidden_states: true, attentions: false };
        let Some(packed) = served(model.forward(&inputs, keep, &mut Trace::off()))? else {
            return Ok(findings);
        };
        let exists = existing(&inputs);
        let counts = |name: &str, at: &[usize]| match &exists {
            Some(exists) if leaves_padding_out(name, self.head, &inputs) => exists[[at[0], at[1]]],
            _ => true,
        };
        findings.extend(self.compare("packed", exact, &named(&packed), precision, counts));
        Ok(findings)
    }

    /// Whether a pass that is recorded, and one that replays it, return to the bit what one does that launches its kernels.
    ///
    /// # Errors
    /// What the device cannot do.
    pub fn replays<D: Device>(&self, device: D, precision: Precision) -> Result<bool, Box<dyn std::error::Error>> {
        let mut model = self.directory.load_on(device, precision, self.head, self.profile)?;
        model.replay_shapes(1);
        let (inputs, _): (Inputs<f32>, _) = read_inputs(&self.inputs)?;
        let bits =
            |outputs: &Outputs<f32>| named(outputs).into_values().map(|v| v.mapv(f64::to_bits)).collect::<Vec<_>>();
        let pass = || Ok::<_, CudaError>(bits(&model.forward(&inputs, Keep::default(), &mut Trace::off())?));
        let (launched, recorded, replayed) = (pass()?, pass()?, pass()?);
        Ok(model.recordings() == 1 && recorded == launched && replayed == launched)
    }

    /// By the equations, padding included.
    fn exact(&self) -> Result<BTreeMap<String, ArrayD<f64>>, Box<dyn std::error::Error>> {
        let model = self.directory.load::<f64>(self.head, self.profile)?.with_attention(Attention::Reference);
        let (inputs, _): (Inputs<f64>, _) = read_inputs(&self.inputs)?;
        let keep = Keep { hidden_states: true, attentions: true };
        Ok(named(&model.forward(&inputs, keep, &mut Trace::off())?))
    }

    /// How far PyTorch's own output in this precision is from `f64`. A loss is a single draw, which may hit zero by luck: its
    /// noise is that of the logits that it averages.
    fn theirs(&self, precision: Precision, output: &str) -> Option<f64> {
        let Some(errors) = self.half.get(precision.name()) else {
            return self.half_probability.get(precision.name()).copied().filter(|_| output.starts_with(PROBABILITIES));
        };
        let of = |name: &str| errors.get(name).copied();
        if output != "loss" {
            return of(output);
        }
        ["loss", "logits", "start_logits", "end_logits"].into_iter().filter_map(of).reduce(f64::max)
    }

    /// Compares what `actual` holds with what `expected` does, at the indices that count.
    fn compare(
        &self,
        how: &str,
        expected: &BTreeMap<String, ArrayD<f64>>,
        actual: &BTreeMap<String, ArrayD<f64>>,
        precision: Precision,
        counts: impl Fn(&str, &[usize]) -> bool,
    ) -> Vec<Finding> {
        let finding = |(name, actual): (&String, &ArrayD<f64>)| {
            let exact = &expected[name];
            let finite = exact.iter().filter(|v| v.is_finite());
            let largest = finite.fold(0.0_f64, |largest, v| largest.max(v.abs()));
            let mut max_abs = if exact.shape() == actual.shape() { 0.0 } else { f64::INFINITY };
            if max_abs == 0.0 {
                for ((at, &e), &a) in exact.indexed_iter().zip(actual) {
                    let same = e == a || (e.is_nan() && a.is_nan()) || !counts(name, at.slice());
                    let apart = if same { 0.0 } else { (e - a).abs() };
                    max_abs = max_abs.max(if apart.is_nan() { f64::INFINITY } else { apart });
                }
            }
            let case = format!("{}, {how}, {}", self.name, precision.name());
            Finding {
                case,
                output: name.clone(),
                max_abs,
                bound: bound(precision, largest, self.theirs(precision, name)),
            }
        };
        actual.iter().map(finding).collect()
    }
}

/// What a pass returned, or `None` where the kernel of attention that was chosen does not serve it.
fn served(outputs: Result<Outputs<f32>, CudaError>) -> Result<Option<Outputs<f32>>, CudaError> {
    match outputs {
        Err(CudaError::Unsupported { .. }) => Ok(None),
        other => other.map(Some),
    }
}

/// Whether the first two axes of an output are sequence and token, and padding is left out of it. With labels, the logits
/// of every token are computed, or those of the labelled ones alone.
fn leaves_padding_out(name: &str, head: Head, inputs: &Inputs<f32>) -> bool {
    let pooled = matches!(head, Head::SequenceClassification | Head::MultipleChoice);
    let logits = name.ends_with("logits") && !pooled && inputs.labels.is_none() && inputs.start_positions.is_none();
    name == "last_hidden_state" || name.starts_with("hidden_states.") || logits
}

/// Which tokens exist, [B, L], where the mask says just that; under another every row is computed.
fn existing(inputs: &Inputs<f32>) -> Option<Array2<bool>> {
    let mask = inputs.attention_mask.as_ref()?;
    let ids = inputs.input_ids.as_ref().map(|ids| ids.shape());
    let tokens = ids.or_else(|| inputs.inputs_embeds.as_ref().map(|embeds| &embeds.shape()[..embeds.ndim() - 1]))?;
    let mask = mask.broadcast(tokens).filter(|_| mask.ndim() <= tokens.len())?;
    let length = *tokens.last()?;
    Array2::from_shape_vec((mask.len() / length, length), mask.iter().map(|&v| v == 1).collect()).ok()
}

fn named<T: Real>(outputs: &Outputs<T>) -> BTreeMap<String, ArrayD<f64>> {
    let mut all = BTreeMap::new();
    outputs.for_each(|name, value| {
        all.insert(name.to_owned(), value.mapv(Real::wide));
    });
    all
}
