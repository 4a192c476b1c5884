//! Modules of kernels as libraries that g++ has made: compiled once a text, loaded once a process.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock};

use deberta_cuda::{CudaError, Module};
use libloading::Library;
use sha2::{Digest, Sha256};

use super::lock;

/// A change made to modules before they are compiled: `from`, which stands there once at most, becomes `to`.
#[derive(Clone, Copy, Debug)]
pub struct Mutation {
    pub from: &'static str,
    pub to: &'static str,
}

/// The environment variables of a change made to the modules of a whole process, where none is made to those of a device
/// (`mutants.rs`).
pub const MUTATION_FROM: &str = "CUDA_MUTATION_FROM";
pub const MUTATION_TO: &str = "CUDA_MUTATION_TO";

fn of_process() -> Option<Mutation> {
    static MUTATION: OnceLock<Option<Mutation>> = OnceLock::new();
    let leak = |name| std::env::var(name).ok().map(|text| &*text.leak());
    *MUTATION.get_or_init(|| Some(Mutation { from: leak(MUTATION_FROM)?, to: leak(MUTATION_TO)? }))
}

/// A module, compiled and loaded: once a process, and compiled once a text.
pub fn library(module: Module, mutation: Option<Mutation>) -> Result<Arc<Library>, CudaError> {
    static LIBRARIES: OnceLock<Mutex<HashMap<String, Arc<Library>>>> = OnceLock::new();
    let mut text = module.text_with(include_str!("device.h"));
    if let Some(Mutation { from, to }) = mutation.or_else(of_process) {
        assert!(text.matches(from).count() <= 1, "a mutation is of one place in {module}: {from:?}");
        text = text.replace(from, to);
    }
    let defines = module.defines();
    let mut hash = Sha256::new();
    for part in
        [text.as_bytes(), defines.join(" ").as_bytes(), include_bytes!("runtime.cpp"), FLAGS.join(" ").as_bytes()]
    {
        hash.update(part);
        hash.update([0]);
    }
    let key: String = hash.finalize().iter().take(12).map(|b| format!("{b:02x}")).collect();
    // Held while compiling, so that no two threads compile the same.
    let mut libraries = lock(LIBRARIES.get_or_init(Mutex::default));
    if let Some(library) = libraries.get(&key) {
        return Ok(Arc::clone(library));
    }
    let error = |log: String| CudaError::Compile { module: module.to_string(), log };
    let folder = folder();
    let path = folder.join(format!("{key}.so"));
    if !path.exists() {
        std::fs::create_dir_all(&folder).map_err(|e| error(e.to_string()))?;
        compile(&folder, &key, &text, &defines).map_err(error)?;
    }
    // SAFETY: it was compiled above, from our sources; it has no initializers.
    let library = Arc::new(unsafe { Library::new(&path) }.map_err(|e| error(e.to_string()))?);
    if mutation.is_none() && of_process().is_some() {
        // There are hundreds, and none is wanted again.
        std::fs::remove_file(&path).map_err(|e| error(e.to_string()))?;
    }
    libraries.insert(key, Arc::clone(&library));
    Ok(library)
}

/// What kernels are compiled with. `-fsanitize=thread` is for its calls; its library is not linked.
const FLAGS: [&str; 6] =
    ["-std=c++17", "-O1", "-fPIC", "-fsanitize=thread", "-ffp-contract=off", "-fcf-protection=none"];

fn folder() -> PathBuf {
    option_env!("CARGO_TARGET_TMPDIR").map_or_else(std::env::temp_dir, PathBuf::from).join("emulated")
}

fn compile(folder: &Path, key: &str, text: &str, defines: &[String]) -> Result<(), String> {
    let file = |name: String| folder.join(format!("{key}-{}-{name}", std::process::id()));
    let (source, object, runtime) = (file("kernels.cpp".into()), file("kernels.o".into()), file("runtime.cpp".into()));
    let linked = file("linked.so".into());
    std::fs::write(&source, text).map_err(|e| e.to_string())?;
    std::fs::write(&runtime, include_str!("runtime.cpp")).map_err(|e| e.to_string())?;
    let defines = defines.iter().map(|d| format!("-D{d}"));
    run(Command::new(compiler()).args(FLAGS).args(defines).arg("-c").arg(&source).arg("-o").arg(&object))?;
    let runtime_object = runtime_object(folder, &runtime)?;
    run(Command::new(compiler()).arg("-shared").arg(&object).arg(runtime_object).arg("-o").arg(&linked))?;
    std::fs::rename(&linked, folder.join(format!("{key}.so"))).map_err(|e| e.to_string())?;
    for leftover in [&source, &object, &runtime] {
        std::fs::remove_file(leftover).map_err(|e| e.to_string())?;
    }
    Ok(())
}

/// The runtime is compiled once, and without the calls that it answers.
fn runtime_object(folder: &Path, source: &Path) -> Result<PathBuf, String> {
    let hash = Sha256::digest(include_bytes!("runtime.cpp"));
    let object = folder.join(format!("runtime-{:02x}{:02x}{:02x}{:02x}.o", hash[0], hash[1], hash[2], hash[3]));
    if !object.exists() {
        let new = source.with_extension("o");
        let flags = ["-std=c++17", "-O2", "-fPIC", "-fcf-protection=none"];
        run(Command::new(compiler()).args(flags).arg("-c").arg(source).arg("-o").arg(&new))?;
        std::fs::rename(&new, &object).map_err(|e| e.to_string())?;
    }
    Ok(object)
}

fn compiler() -> String {
    std::env::var("CXX").unwrap_or_else(|_| "g++".to_owned())
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|e| format!("{:?}: {e}", command.get_program()))?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}
