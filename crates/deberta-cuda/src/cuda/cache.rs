//! Compiled kernels on disk: a kernel is compiled once a machine, and a machine without a compiler can be given them.
//!
//! An entry's name is the SHA-256 of the text, its defines and the architecture, so a stale one is never found. Its first
//! 32 bytes are the SHA-256 of the rest, so a damaged one is never used. It is written beside and renamed, so that two
//! programs may do so at once.
//!
//! Entries are looked for in `$DEBERTA_KERNELS`, in the folder `kernels` beside the program, and in the user's cache
//! (`$XDG_CACHE_HOME/deberta-ref/kernels`, else `~/.cache/deberta-ref/kernels`), where new ones are written.

use std::io::Write;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::compile::is_ptx;
use crate::source::Module;

/// The environment variable that names a folder of compiled kernels.
pub const KERNELS_FOLDER: &str = "DEBERTA_KERNELS";

const DIGEST: usize = 32;

/// Where compiled kernels lie.
#[derive(Clone, Debug, Default)]
pub struct Cache {
    read: Vec<PathBuf>,
    write: Option<PathBuf>,
}

impl Cache {
    /// The folders of this user and program.
    pub fn of_user() -> Self {
        let variable = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let home = || variable("HOME").map(|home| home.join(".cache"));
        let own = variable("XDG_CACHE_HOME").or_else(home).map(|folder| folder.join("deberta-ref/kernels"));
        let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join("kernels")));
        let read = [variable(KERNELS_FOLDER), beside, own.clone()].into_iter().flatten().collect();
        Self { read, write: own }
    }

    /// One folder, read and written.
    pub fn at(folder: &Path) -> Self {
        Self { read: vec![folder.to_owned()], write: Some(folder.to_owned()) }
    }

    /// The sound entries of that name, one a folder: a driver may refuse the first and take the next.
    pub fn get(&self, name: &str) -> impl Iterator<Item = Vec<u8>> {
        self.read.iter().filter_map(move |folder| {
            let bytes = std::fs::read(folder.join(name)).ok()?;
            let (digest, code) = bytes.split_at_checked(DIGEST)?;
            (Sha256::digest(code).as_slice() == digest).then(|| code.to_owned())
        })
    }

    /// Keeps an entry.
    ///
    /// # Errors
    /// What the system says; nothing half written is left under the name.
    pub fn put(&self, name: &str, code: &[u8]) -> std::io::Result<()> {
        let Some(folder) = &self.write else {
            return Ok(());
        };
        std::fs::create_dir_all(folder)?;
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(&Sha256::digest(code))?;
        file.write_all(code)?;
        file.persist(folder.join(name))?;
        Ok(())
    }
}

/// The name of the entry of `module` for an architecture.
pub fn entry(module: &Module, architecture: &str) -> String {
    let kind = if is_ptx(architecture) { "ptx" } else { "cubin" };
    format!("{}.{kind}", digest(&[&module.text(), &module.defines().join(" "), architecture]))
}

fn digest(parts: &[&str]) -> String {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part);
    }
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_is_found_and_what_was_damaged_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(&folder.path().join("a/b"));
        let get = || cache.get("x").next();
        assert_eq!(get(), None);
        cache.put("x", b"code").unwrap();
        assert_eq!(get().as_deref(), Some(&b"code"[..]));
        let path = folder.path().join("a/b/x");
        for damaged in [&b"short"[..], &[0; 40][..], &[][..]] {
            std::fs::write(&path, damaged).unwrap();
            assert_eq!(get(), None);
        }
        cache.put("x", b"again").unwrap();
        assert_eq!(get().as_deref(), Some(&b"again"[..]));
        assert_eq!(std::fs::read_dir(folder.path().join("a/b")).unwrap().count(), 1, "nothing is left beside");
    }

    #[test]
    fn an_entry_is_named_after_all_of_its_parts() {
        assert_ne!(digest(&["ab", "c"]), digest(&["a", "bc"]));
        assert_eq!(digest(&["ab", "c"]), digest(&["ab", "c"]));
        let module = Module::all().next().unwrap();
        let (cubin, ptx) = (entry(&module, "sm_80"), entry(&module, "compute_80"));
        assert!(cubin.ends_with(".cubin") && ptx.ends_with(".ptx"));
        assert_ne!(cubin[..64], ptx[..64]);
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_an_error_and_reading_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, b"").unwrap();
        let cache = Cache::at(&file);
        assert!(cache.put("x", b"code").is_err());
        assert_eq!(cache.get("x").next(), None);
    }

    #[test]
    fn every_folder_is_asked_in_its_order() {
        let folders: Vec<_> = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
        let paths: Vec<PathBuf> = folders.iter().map(|folder| folder.path().to_owned()).collect();
        Cache::at(&paths[0]).put("x", b"shipped").unwrap();
        Cache::at(&paths[2]).put("x", b"compiled here").unwrap();
        let cache = Cache { read: paths, write: None };
        assert_eq!(cache.get("x").collect::<Vec<_>>(), [&b"shipped"[..], b"compiled here"]);
    }
}
