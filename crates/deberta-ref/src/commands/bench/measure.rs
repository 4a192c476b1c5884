//! The measurement of one shape.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

#[cfg(feature = "cuda")]
use deberta_cuda::measure::product_times;
use deberta_ref::bench::{BatchShape, MatrixProduct, peak_memory, required_operations, reset_peak_memory};
use deberta_ref::{Inputs, Keep, Model, ModelError, Real, Trace};

/// When to stop.
pub struct Plan {
    /// After this many passes, if stated.
    pub repeat: Option<u32>,
    /// Else after this many seconds of passes, and at least [`FEWEST`] of them.
    pub seconds: f64,
}

impl Plan {
    fn is_done(&self, passes: &[Duration]) -> bool {
        match self.repeat {
            Some(repeat) => passes.len() >= repeat as usize,
            None => passes.len() >= FEWEST && passes.iter().sum::<Duration>().as_secs_f64() >= self.seconds,
        }
    }
}

const FEWEST: usize = 3;

/// Passes before the timed ones: until they took this long, and at least two, as the first computes what never changes.
const WARM_UP: Duration = Duration::from_millis(300);

const SETTLE: Duration = Duration::from_millis(50);

/// What was measured of one shape.
pub struct Timing {
    /// As on the command line.
    pub shape: String,
    /// The passes, from the shortest to the longest.
    pub passes: Vec<Duration>,
    /// The matrix products between them, likewise.
    pub products: Vec<Duration>,
    /// The product: a matrix [n, i] by the transpose of one [o, i].
    pub product: [usize; 3],
    /// The operations that a pass must do.
    pub operations: f64,
    /// The peak of memory over the passes that warmed up, before any matrix product: resident, or taken on the GPU.
    pub peak_memory: Option<u64>,
}

impl Timing {
    /// Seconds of the pass at this share of the passes, 0.5 for the median.
    pub fn quantile(&self, share: f64) -> f64 {
        quantile(&self.passes, share)
    }

    /// Operations a second of the passes.
    pub fn rate(&self) -> f64 {
        self.operations / self.quantile(0.5)
    }

    /// Operations a second of the matrix product.
    pub fn product_rate(&self) -> f64 {
        let [n, i, o] = self.product.map(|size| size as f64);
        2.0 * n * i * o / quantile(&self.products, 0.5)
    }
}

/// The value below which a share of the sorted durations lies, between two of them in proportion.
fn quantile(sorted: &[Duration], share: f64) -> f64 {
    let place = share * (sorted.len() - 1) as f64;
    let below = place.floor();
    let (low, high) = (sorted[below as usize].as_secs_f64(), sorted[place.ceil() as usize].as_secs_f64());
    low + (place - below) * (high - low)
}

/// Times a shape.
///
/// # Errors
/// A batch that the model refuses.
pub fn measure<T: Real>(model: &Model<'_, T>, shape: &BatchShape, plan: &Plan) -> Result<Timing, ModelError> {
    let inputs = shape.inputs::<T>(model.config(), model.head());
    let progress = Progress::new(shape);

    // 1. Warm up, and see what memory that takes.
    reset_peak_memory();
    let mut warmed = pass(model, &inputs)?;
    progress.passes(0);
    warmed += pass(model, &inputs)?;
    while warmed < WARM_UP {
        warmed += pass(model, &inputs)?;
    }
    let peak_memory = peak_memory();

    // 2. A pass and a product in turn.
    let mut product = MatrixProduct::<T>::new();
    let (mut passes, mut products) = (Vec::new(), Vec::new());
    while !plan.is_done(&passes) {
        passes.push(pass(model, &inputs)?);
        products.push(product.time());
        // The library's threads look out for more work for a while; they are not to do so beside the next pass.
        std::thread::sleep(SETTLE);
        progress.passes(passes.len());
    }
    progress.clear();
    passes.sort();
    products.sort();
    Ok(Timing {
        shape: shape.to_string(),
        passes,
        products,
        product: MatrixProduct::<T>::SIZES,
        operations: required_operations(model.config(), model.profile(), model.head(), shape.lengths()),
        peak_memory,
    })
}

/// The same on a GPU, where a pass is timed from the first kernel to the end of the last, and nothing is copied in between.
///
/// # Errors
/// A batch that the model refuses, and what the device cannot do.
#[cfg(feature = "cuda")]
pub fn measure_on<D: deberta_cuda::Device>(
    model: &deberta_cuda::Model<D>,
    shape: &BatchShape,
    plan: &Plan,
) -> Result<Timing, deberta_cuda::CudaError> {
    const SIDE: usize = 4096;
    let inputs = shape.inputs::<f32>(model.config(), model.head());
    let progress = Progress::new(shape);
    model.device().trim();
    let warm = model.time(&inputs, FEWEST)?;
    let peak_memory = Some(model.device().taken() as u64);
    let fitting = plan.seconds * FEWEST as f64 / warm.iter().sum::<Duration>().as_secs_f64();
    let repeat = plan.repeat.map_or((fitting as usize).max(FEWEST), |repeat| repeat as usize);
    let mut passes = model.time(&inputs, repeat)?;
    let mut products = product_times(model.device(), model.precision(), SIDE, FEWEST)?;
    progress.clear();
    passes.sort();
    products.sort();
    let operations = required_operations(model.config(), model.profile(), model.head(), shape.lengths());
    Ok(Timing { shape: shape.to_string(), passes, products, product: [SIDE; 3], operations, peak_memory })
}

fn pass<T: Real>(model: &Model<'_, T>, inputs: &Inputs<T>) -> Result<Duration, ModelError> {
    let start = Instant::now();
    let outputs = model.forward(inputs, Keep::default(), &mut Trace::off())?;
    let took = start.elapsed();
    std::hint::black_box(outputs);
    Ok(took)
}

/// One line on a terminal, rewritten.
struct Progress {
    shape: Option<String>,
}

impl Progress {
    fn new(shape: &BatchShape) -> Self {
        let progress = Self { shape: std::io::stderr().is_terminal().then(|| shape.to_string()) };
        progress.say("warming up");
        progress
    }

    fn passes(&self, count: usize) {
        self.say(&format!("{count} passes timed"));
    }

    fn say(&self, what: &str) {
        if let Some(shape) = &self.shape {
            let mut stderr = std::io::stderr().lock();
            // Progress that cannot be shown is no reason to stop.
            let _ = write!(stderr, "\r\x1b[K{shape}: {what}");
            let _ = stderr.flush();
        }
    }

    fn clear(&self) {
        if self.shape.is_some() {
            eprint!("\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_between_the_sorted() {
        let times = [1, 2, 3, 10].map(Duration::from_secs);
        assert_eq!([0.0, 0.5, 1.0].map(|share| quantile(&times, share)), [1.0, 2.5, 10.0]);
        assert_eq!(quantile(&times[..1], 0.75), 1.0);
    }

    #[test]
    fn a_plan_ends_by_count_or_by_time() {
        let passes = [2, 2, 2].map(Duration::from_secs);
        let counted = Plan { repeat: Some(2), seconds: 100.0 };
        assert!(!counted.is_done(&passes[..1]) && counted.is_done(&passes[..2]));
        let timed = Plan { repeat: None, seconds: 3.0 };
        assert!(!timed.is_done(&passes[..2]) && timed.is_done(&passes));
    }
}
