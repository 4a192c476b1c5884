//! Checks a GPU: parity with `f64` on every fixture, then speed. `tools/gpu_check` packs this program with what it needs
//! and runs it; it prints a page in Markdown.
//!
//! `gpu_check [--fixtures FOLDER] [--only PART,…] [--precision NAME] [--rungs] [--own-products] [--speed]`
//! `gpu_check --card`
//! `gpu_check [--fixtures FOLDER] --heads`
//!
//! Cases are those that have one of the parts in their names. `--own-products` leaves cublasLt aside, so that a sanitizer sees
//! our kernels and no others, and replays nothing, as that would launch the same ones again. `--card` prints the card's name and
//! does nothing else; `--heads` the sizes of the heads of all models, which needs no GPU. Exit code 0: all
//! within bounds; 1: something is not; 2: it could not run.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use deberta_cuda::ops::Rung;
use deberta_cuda::{CudaDevice, CudaError, Device, Precision};
use deberta_tests::attention::Given;
use deberta_tests::parity::{self, Finding, Subject, subjects};
use deberta_tests::speed;

type Failure = Box<dyn std::error::Error>;

/// What was asked on the command line.
struct Options {
    fixtures: PathBuf,
    only: Vec<String>,
    precisions: Vec<Precision>,
    rungs: bool,
    own_products: bool,
    speed: bool,
    card: bool,
    heads: bool,
}

fn main() -> ExitCode {
    match options().and_then(|options| run(&options)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("gpu_check: {error}");
            ExitCode::from(2)
        }
    }
}

fn options() -> Result<Options, Failure> {
    let mut options = Options {
        fixtures: PathBuf::from("fixtures"),
        only: Vec::new(),
        precisions: Precision::ALL.to_vec(),
        rungs: false,
        own_products: false,
        speed: false,
        card: false,
        heads: false,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{argument} takes a value"));
        match argument.as_str() {
            "--fixtures" => options.fixtures = value()?.into(),
            "--only" => options.only = value()?.split(',').map(str::to_owned).collect(),
            "--precision" => {
                let name = value()?;
                let known = Precision::ALL.into_iter().find(|p| p.name() == name);
                options.precisions = vec![known.ok_or_else(|| format!("`{name}` is no precision of a GPU"))?];
            }
            "--rungs" => options.rungs = true,
            "--own-products" => options.own_products = true,
            "--speed" => options.speed = true,
            "--card" => options.card = true,
            "--heads" => options.heads = true,
            other => return Err(format!("`{other}` is not known; see the head of tests/src/bin/gpu_check.rs").into()),
        }
    }
    Ok(options)
}

fn run(options: &Options) -> Result<bool, Failure> {
    let wanted = |name: &str| options.only.is_empty() || options.only.iter().any(|part| name.contains(part));
    if options.heads {
        let subjects = subjects(&options.fixtures, wanted)?;
        let sizes: BTreeSet<String> = subjects.iter().map(|subject| subject.head_size().to_string()).collect();
        println!("{}", Vec::from_iter(sizes).join(","));
        return Ok(true);
    }
    let mut device = CudaDevice::open(0)?;
    if options.card {
        println!("{}", device.name()?);
        return Ok(true);
    }
    if options.own_products {
        device = device.with_own_products();
    }
    println!("- Card: {}", device.name()?);
    println!("- Driver's CUDA version: {}", device.driver_version()?);
    println!("- Products: {}\n", if device.has_cublas_lt() { "cublasLt" } else { "our own kernel" });
    if options.speed {
        measure(&device, &options.precisions)?;
        return ladder(&device, &options.precisions).map(|()| true);
    }
    let subjects = subjects(&options.fixtures, wanted)?;
    if subjects.is_empty() {
        let parts = options.only.join("`, `");
        return Err(format!("no case of {} has `{parts}` in its name", options.fixtures.display()).into());
    }
    let lengths = if options.own_products { &SHORT[..] } else { &LENGTHS };
    let mut fine = !options.rungs || ladder_parity(&device, &options.precisions, lengths)?;
    println!("| precision | attention | cases | outputs | beyond | worst share of its bound | where | s |");
    println!("|---|---|---|---|---|---|---|---|");
    let rungs: Vec<Option<Rung>> = match options.rungs {
        true => Rung::ALL.into_iter().map(Some).collect(),
        false => vec![None],
    };
    for &precision in &options.precisions {
        for &rung in &rungs {
            fine &= suite(&device, &subjects, precision, rung);
        }
        if !options.own_products {
            fine &= replays(&device, &subjects, precision);
        }
    }
    Ok(fine)
}

/// One row of the table: all cases in one precision by one kernel of attention. A case that fails does not hide the others.
fn suite(device: &CudaDevice, subjects: &[Subject], precision: Precision, rung: Option<Rung>) -> bool {
    let begin = Instant::now();
    let name = rung.map_or("best", Rung::name);
    let (mut all, mut failed): (Vec<Finding>, Vec<String>) = Default::default();
    // Others it refuses, but only after all that comes before attention.
    let serves = |rung: Rung, heads| rung.file().supports(precision) && rung.file().takes_heads(precision, heads);
    let subjects: Vec<_> =
        subjects.iter().filter(|subject| rung.is_none_or(|rung| serves(rung, subject.head_size()))).collect();
    for subject in &subjects {
        match subject.check(device, precision, rung) {
            Ok(found) => all.extend(found),
            Err(error) => failed.push(format!("{}: {error}", subject.name)),
        }
    }
    let bad = all.iter().filter(|finding| !finding.is_fine());
    let far =
        bad.map(|f| format!("{}: {} is {:e} from f64, {:e} allowed", f.case, f.output, f.max_abs, f.bound)).collect();
    let worst = all.iter().max_by(|a, b| (a.max_abs / a.bound).total_cmp(&(b.max_abs / b.bound)));
    let (share, place) = match (failed.first(), worst) {
        (Some(first), _) => (f64::INFINITY, first_line(first).to_owned()),
        (None, Some(f)) => (f.max_abs / f.bound, format!("{} of {}", f.output, f.case)),
        (None, None) => (0.0, "serves none of the cases".to_owned()),
    };
    let beyond = [failed, far].concat();
    println!(
        "| {} | {name} | {} | {} | {} | {share:.3} | {place} | {:.1} |",
        precision.name(),
        subjects.len(),
        all.len(),
        beyond.len(),
        begin.elapsed().as_secs_f64()
    );
    say(&beyond);
    beyond.is_empty()
}

/// The lengths of the sequences that attention alone is checked on: below, at and above a tile, and so long that tiles of a single
/// slot lie on both sides of those of many.
const LENGTHS: [usize; 7] = [1, 63, 64, 65, 200, 513, 1500];

/// The same under a sanitizer, which slows kernels a hundredfold: more than one tile.
const SHORT: [usize; 2] = [1, 130];

/// A table of its own: attention alone by every kernel, heads of 64 and the buckets of the released models, which no fixture has.
fn ladder_parity(device: &CudaDevice, precisions: &[Precision], lengths: &[usize]) -> Result<bool, Failure> {
    let operands = speed::operands(&speed::attention(2, 64), lengths);
    println!("| attention alone, sequences of {lengths:?} | largest difference from f64 | allowed |");
    println!("|---|---|---|");
    let mut fine = true;
    for &precision in precisions {
        let exact = operands.exact(precision);
        let given = Given::upload(device, precision, &operands)?;
        for rung in Rung::ALL {
            let context = match given.time(device, rung, 1) {
                Ok((_, context)) => context,
                Err(CudaError::Unsupported { .. }) => continue,
                Err(error) => return Err(error.into()),
            };
            let (apart, bound) = parity::apart(&exact, &context, precision);
            fine &= apart <= bound;
            println!("| {}, {} | {apart:.1e} | {bound:.1e} |", precision.name(), rung.name());
        }
    }
    println!();
    Ok(fine)
}

/// Another row: whether passes that replay a recording return what others do.
fn replays(device: &CudaDevice, subjects: &[Subject], precision: Precision) -> bool {
    let other: Vec<String> = (subjects.iter())
        .filter_map(|subject| match subject.replays(device, precision) {
            Ok(true) => None,
            Ok(false) => Some(format!("{}: a replayed pass returns something else", subject.name)),
            Err(error) => Some(format!("{}: {error}", subject.name)),
        })
        .collect();
    let first = other.first().map_or("", |problem| first_line(problem));
    println!("| {} | replayed | {} | | {} | to the bit | {first} | |", precision.name(), subjects.len(), other.len());
    say(&other);
    other.is_empty()
}

/// What fits into a cell of a table: a compiler says more.
fn first_line(problem: &str) -> &str {
    problem.lines().next().unwrap_or_default()
}

/// The first of many, as a kernel that broke the context fails all cases after it.
fn say(problems: &[String]) {
    for problem in problems.iter().take(10) {
        eprintln!("gpu_check: {problem}");
    }
    if problems.len() > 10 {
        eprintln!("gpu_check: and {} more", problems.len() - 10);
    }
}

/// Whole v3-base, 8192 tokens a batch, at every length; then its memory on one sequence, which should grow as its length. The
/// shortest types first: they are the ones to be fast in, if time runs out.
fn measure(device: &CudaDevice, precisions: &[Precision]) -> Result<(), Failure> {
    println!(
        "\n| precision | batch | median ms | fastest ms | replayed ms | tokens/s | TFLOP/s | of one large product | MiB beside weights |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for &precision in precisions.iter().rev() {
        let peak = speed::product_rate(device, precision, 8192)?;
        let mut model = speed::random_model(device, precision, &speed::v3_base())?;
        let batches = [128, 512, 2048, 8192].map(|length| (8192 / length, length));
        for (sequences, length) in batches.into_iter().chain([(1, 1024), (1, 4096)]) {
            device.trim();
            let weights = device.taken();
            model.replay_shapes(0);
            let m = speed::measure(&model, sequences, length, 10)?;
            let taken = device.taken() - weights;
            model.replay_shapes(1);
            let replayed = match speed::measure(&model, sequences, length, 10) {
                Ok(m) => format!("{:.3}", m.median * 1e3),
                Err(error) => format!("failed: {error}"),
            };
            println!(
                "| {} | {sequences}×{length} | {:.3} | {:.3} | {replayed} | {:.0} | {:.1} | {:.0} % of {:.0} | {:.1} |",
                precision.name(),
                m.median * 1e3,
                m.fastest * 1e3,
                (sequences * length) as f64 / m.median,
                m.operations / m.median / 1e12,
                100.0 * m.operations / m.median / peak,
                peak / 1e12,
                taken as f64 / 1048576.0
            );
        }
    }
    Ok(())
}

/// Attention alone by every kernel of the ladder, on the shapes of v3-base, 8192 tokens a batch.
fn ladder(device: &CudaDevice, precisions: &[Precision]) -> Result<(), Failure> {
    println!("\n| attention alone, ms | batch | {} |", Rung::ALL.map(Rung::name).join(" | "));
    println!("|---|---|{}", "---|".repeat(Rung::ALL.len()));
    for &precision in precisions.iter().rev() {
        for length in [128, 512, 2048, 8192] {
            let sequences = 8192 / length;
            device.trim();
            let timed = speed::ladder(device, precision, &speed::v3_base(), sequences, length)?;
            let cells = timed.iter().map(|(_, seconds)| match seconds {
                Some(seconds) => format!("{:.3}", seconds * 1e3),
                None => "–".to_owned(),
            });
            println!("| {} | {sequences}×{length} | {} |", precision.name(), Vec::from_iter(cells).join(" | "));
        }
    }
    Ok(())
}
