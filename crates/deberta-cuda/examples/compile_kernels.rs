//! Compiles every kernel for every architecture, needs NVRTC and no GPU, and prints what each takes.
//!
//! `cargo run --release -p deberta-cuda --example compile_kernels -- [--heads SIZE,…] [--output FOLDER] [ARCHITECTURE …]`
//!
//! Heads are of 64, and of the sizes named. With `--output` the code is kept where [`deberta_cuda::cuda::Cache`] finds it, for machines without a compiler, and PTX beside
//! it, for cards that are not on the list. Exit code 1: a kernel spills registers that is not known to, or one that is known to no longer does; 2: it did not compile.

use std::collections::BTreeSet;
use std::num::NonZero;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use deberta_cuda::cuda::{Cache, Compiled, PORTABLE, Resources, compile, entry};
use deberta_cuda::{CudaError, Module};

/// The architectures that are supported: Ampere, its consumer cards, Ada, Hopper.
const ARCHITECTURES: [&str; 4] = ["sm_80", "sm_86", "sm_89", "sm_90"];

/// Kernels that are known to spill, as `MODULE: KERNEL on ARCHITECTURE`, and may.
const KNOWN_TO_SPILL: [&str; 0] = [];

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).peekable();
    let mut heads = vec![64];
    if arguments.next_if_eq("--heads").is_some() {
        let named = arguments.next().unwrap_or_default();
        let Ok(named) = named.split(',').map(str::parse).collect::<Result<Vec<usize>, _>>() else {
            eprintln!("compile_kernels: --heads takes sizes, such as 16,32, and not `{named}`");
            return ExitCode::from(2);
        };
        heads.extend(named.into_iter().filter(|&size| size != 64));
    }
    let modules: Vec<Module> = Module::for_heads(&heads).collect();
    let output = arguments.next_if_eq("--output").map(|_| PathBuf::from(arguments.next().unwrap_or_default()));
    let mut architectures: Vec<String> = arguments.collect();
    if architectures.is_empty() {
        architectures = ARCHITECTURES.map(str::to_owned).to_vec();
    }
    match compile_all(&modules, &architectures, output.map(|folder| Cache::at(&folder)).as_ref()) {
        Ok(spills) => judge(&spills, architectures == ARCHITECTURES),
        Err(error) => {
            eprintln!("compile_kernels: {error}");
            ExitCode::from(2)
        }
    }
}

/// Compiles everything, prints a line for each kernel, and returns those that spill.
fn compile_all(
    modules: &[Module],
    architectures: &[String],
    cache: Option<&Cache>,
) -> Result<BTreeSet<String>, CudaError> {
    let mut spills = BTreeSet::new();
    println!(
        "{:<9} {:<9} {:<6} {:<28} {:>9} {:>7} {:>6} {:>13}",
        "sm", "precision", "D", "kernel", "registers", "shared", "stack", "spilled bytes"
    );
    for architecture in architectures {
        for (module, compiled) in compiled(modules, architecture)? {
            if let Some(cache) = cache {
                put(cache, &entry(&module, architecture), &compiled.code)?;
            }
            for kernel in Resources::read(&compiled.log) {
                let spilled = kernel.spill_stores + kernel.spill_loads;
                println!(
                    "{architecture:<9} {:<9} {:<6} {:<28} {:>9} {:>7} {:>6} {spilled:>13}",
                    module.precision.name(),
                    module.head_size,
                    kernel.kernel,
                    kernel.registers,
                    kernel.shared,
                    kernel.stack,
                );
                if spilled > 0 {
                    spills.insert(format!("{module}: {} on {architecture}", kernel.kernel));
                }
            }
        }
    }
    if let Some(cache) = cache {
        for (module, compiled) in compiled(modules, PORTABLE)? {
            put(cache, &entry(&module, PORTABLE), &compiled.code)?;
        }
    }
    Ok(spills)
}

/// The modules for one architecture, compiled on as many threads as the machine runs at once.
fn compiled(modules: &[Module], architecture: &str) -> Result<Vec<(Module, Compiled)>, CudaError> {
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    let work = || {
        let taken = std::iter::from_fn(|| modules.get(next.fetch_add(1, Relaxed)));
        taken.map(|module| Ok((*module, compile(module, architecture)?))).collect::<Result<Vec<_>, CudaError>>()
    };
    let parts: Vec<_> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().map(|worker| worker.join().expect("a thread that compiles does not panic")).collect()
    });
    let mut all = parts.into_iter().collect::<Result<Vec<_>, _>>()?.concat();
    all.sort_by_key(|(module, _)| modules.iter().position(|m| m == module));
    Ok(all)
}

fn put(cache: &Cache, name: &str, code: &[u8]) -> Result<(), CudaError> {
    cache.put(name, code).map_err(|error| CudaError::Call { call: "write", said: error.to_string() })
}

fn judge(spills: &BTreeSet<String>, all_architectures: bool) -> ExitCode {
    let known: BTreeSet<String> = KNOWN_TO_SPILL.iter().map(|&name| name.to_owned()).collect();
    let new: Vec<&String> = spills.difference(&known).collect();
    let gone: Vec<&String> = known.difference(spills).filter(|_| all_architectures).collect();
    for name in &new {
        eprintln!("compile_kernels: {name} spills registers, which it was not known to");
    }
    for name in &gone {
        eprintln!("compile_kernels: {name} no longer spills: take it off the list");
    }
    if new.is_empty() && gone.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) }
}
