//! Where things lie, and what to say when they do not.

use std::io::Write;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the workspace root exists")
}

/// The folder `fixtures/` of the repository, or a file in it. It always exists: a missing fixture is a failure.
pub fn fixtures(relative: &str) -> PathBuf {
    let path = root().join("fixtures").join(relative);
    assert!(path.exists(), "fixtures/{relative} is missing; tools/goldens makes it");
    path
}

/// A file of the third-party data, which is not part of the repository: `$DEBERTA_TEST_DATA/relative`, by default
/// `../shared/data/relative` seen from the root of the repository. `None`, after saying so on standard error, where it is
/// absent: the test then returns at once.
pub fn third_party(test: &str, relative: &str) -> Option<PathBuf> {
    let data = std::env::var_os("DEBERTA_TEST_DATA").map_or_else(|| root().join("../shared/data"), PathBuf::from);
    let path = data.join(relative);
    if path.exists() {
        return Some(path);
    }
    skipped(test, &format!("third-party data {relative} is absent; set DEBERTA_TEST_DATA to the folder that holds it"));
    None
}

/// Says that a test did not run, and why. Written past the test harness's capture, so that it shows for a test that
/// returns without failing; `tools/test` counts these lines.
pub fn skipped(test: &str, why: &str) {
    let mut stderr = std::io::stderr().lock();
    writeln!(stderr, "skipped: {test}: {why}").expect("standard error accepts a line");
}

/// The path of a program of this workspace, in the same target directory and profile as the running test.
/// `tools/test` builds the programs first; run alone, a test says how to.
pub fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its own path");
    let profile = test.parent().and_then(Path::parent).expect("tests lie in target/<profile>/deps");
    let path = profile.join(format!("{name}{}", std::env::consts::EXE_SUFFIX));
    assert!(path.exists(), "{name} is not built: run `cargo build --release --workspace` first, as tools/test does");
    path
}
