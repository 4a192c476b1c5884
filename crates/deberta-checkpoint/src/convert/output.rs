//! Where the output goes, and how it gets its name only when it is complete.
//!
//! On Linux a file is written without any name (`O_TMPFILE`), so that even a killed process leaves nothing; it is linked to
//! its name at the end. Elsewhere it has a temporary name beside the output.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use tempfile::{NamedTempFile, TempDir, TempPath};

use super::plan::Plan;
use super::write::{Written, full_or_io};
use crate::checkpoint::Checkpoint;
use crate::error::Error;

/// The output that the user named.
#[derive(Debug)]
pub(crate) enum Target {
    File(PathBuf),
    Directory(PathBuf),
}

impl Target {
    pub fn new(output: &Path) -> Result<Self, Error> {
        if output.file_name().is_none() && !output.is_dir() {
            return Err(Error::NotFound {
                path: output.into(),
                expected: "a file or folder name for the output".into(),
            });
        }
        let is_file = output.extension().is_some_and(|e| e.eq_ignore_ascii_case("safetensors"));
        Ok(if is_file { Self::File(output.into()) } else { Self::Directory(output.into()) })
    }

    pub fn path(&self) -> &Path {
        match self {
            Self::File(path) | Self::Directory(path) => path,
        }
    }

    /// Refuses an output that is the source, or that exists and is not to be replaced.
    pub fn check(&self, source: &Checkpoint, force: bool) -> Result<(), Error> {
        let output = self.path();
        let real = |p: &Path| fs::canonicalize(p).ok();
        let out = real(output);
        if out.is_some()
            && (out == real(source.path()) || source.files().any(|f| out == real(f) || same_file(f, output)))
        {
            return Err(Error::OutputIsSource { path: output.into() });
        }
        if matches!(self, Self::Directory(_))
            && out.is_some()
            && source.files().any(|f| f.parent().and_then(real) == out)
        {
            return Err(Error::OutputIsSource { path: output.into() });
        }
        let exists = fs::symlink_metadata(output).is_ok();
        let empty = fs::read_dir(output).is_ok_and(|mut entries| entries.next().is_none());
        match self {
            Self::File(path) if path.is_dir() => {
                return Err(Error::OutputKind { path: path.clone(), found: "a folder", wanted: "a file" });
            }
            Self::Directory(path) if exists && !path.is_dir() => {
                return Err(Error::OutputKind { path: path.clone(), found: "a file", wanted: "a folder" });
            }
            _ => {}
        }
        if exists && !force && !empty {
            return Err(Error::OutputExists { path: output.into() });
        }
        Ok(())
    }

    /// The folder that files are written in until they have their names: the nearest one that exists.
    pub fn staging(&self) -> Result<Staging, Error> {
        let output = self.path();
        let mut folder = if output.is_dir() { Some(output) } else { output.parent() };
        while let Some(candidate) = folder.filter(|f| !f.as_os_str().is_empty() && !f.is_dir()) {
            folder = candidate.parent();
        }
        let folder = folder.filter(|f| !f.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Ok(Staging { folder: folder.to_owned() })
    }

    /// Gives everything its name.
    pub fn publish(&self, plan: &Plan, staging: Staging, written: Vec<Written>, force: bool) -> Result<(), Error> {
        match self {
            Self::File(path) => {
                let folder = parent(path);
                fs::create_dir_all(folder).map_err(Error::io(folder, "create"))?;
                for (shard, written) in plan.shards.iter().zip(written) {
                    written.partial.publish(&folder.join(&shard.file_name), force)?;
                }
                if let Some(index) = &plan.index {
                    publish_text(&folder.join(&plan.index_name), &pretty(index), force)?;
                }
                drop(staging);
                Ok(())
            }
            Self::Directory(path) if path.is_dir() => into_existing(path, plan, written),
            Self::Directory(path) => into_new(path, plan, written),
        }
    }
}

/// Whether two paths lead to one file, by any name.
#[cfg(unix)]
fn same_file(a: &Path, b: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (fs::metadata(a), fs::metadata(b)) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

#[cfg(not(unix))]
fn same_file(_a: &Path, _b: &Path) -> bool {
    false
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn pretty(value: &serde_json::Value) -> Vec<u8> {
    let mut text = format!("{value:#}").into_bytes();
    text.push(b'\n');
    text
}

/// A folder that is not there yet: filled under a temporary name, then renamed as a whole.
fn into_new(path: &Path, plan: &Plan, written: Vec<Written>) -> Result<(), Error> {
    let folder = parent(path);
    fs::create_dir_all(folder).map_err(Error::io(folder, "create"))?;
    let partial = temporary_folder(folder)?;
    fill(partial.path(), plan, written)?;
    fs::rename(partial.path(), path).map_err(Error::io(path, "create"))?;
    // It has gone to its name; there is nothing to clean up.
    let _ = partial.keep();
    Ok(())
}

fn temporary_folder(folder: &Path) -> Result<TempDir, Error> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".deberta-convert-").suffix(".tmp");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o777));
    builder.tempdir_in(folder).map_err(Error::io(folder, "create a folder in"))
}

/// A folder that is there: each file replaces its namesake by renaming, the index last, and weights of an earlier conversion
/// that no longer belong to the model go.
fn into_existing(path: &Path, plan: &Plan, written: Vec<Written>) -> Result<(), Error> {
    for (shard, written) in plan.shards.iter().zip(written) {
        written.partial.publish(&path.join(&shard.file_name), true)?;
    }
    for (name, content) in plan.companions()? {
        publish_text(&path.join(name), &content, true)?;
    }
    if let Some(index) = &plan.index {
        publish_text(&path.join(&plan.index_name), &pretty(index), true)?;
    }
    let entries = fs::read_dir(path).map_err(Error::io(path, "list"))?;
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let weights = name == "model.safetensors"
            || name == "model.safetensors.index.json"
            || (name.starts_with("model-") && name.contains("-of-") && name.ends_with(".safetensors"));
        let ours = plan.shards.iter().any(|s| s.file_name == name) || (plan.index.is_some() && plan.index_name == name);
        if weights && !ours {
            fs::remove_file(entry.path()).map_err(Error::io(entry.path(), "remove"))?;
        }
    }
    Ok(())
}

fn fill(folder: &Path, plan: &Plan, written: Vec<Written>) -> Result<(), Error> {
    for (shard, written) in plan.shards.iter().zip(written) {
        written.partial.publish(&folder.join(&shard.file_name), false)?;
    }
    if let Some(index) = &plan.index {
        publish_text(&folder.join(&plan.index_name), &pretty(index), false)?;
    }
    for (name, content) in plan.companions()? {
        publish_text(&folder.join(name), &content, false)?;
    }
    Ok(())
}

/// Writes a small file completely before it gets its name.
fn publish_text(path: &Path, content: &[u8], replace: bool) -> Result<(), Error> {
    let staging = Staging { folder: parent(path).to_owned() };
    let mut partial = staging.create(content.len() as u64)?;
    partial.file_mut().write_all(content).map_err(|e| full_or_io(staging.path(), content.len() as u64, e))?;
    partial.publish(path, replace)
}

/// The folder that files are written in.
#[derive(Debug)]
pub(crate) struct Staging {
    folder: PathBuf,
}

impl Staging {
    pub fn path(&self) -> &Path {
        &self.folder
    }

    /// A new file of that size to be.
    pub fn create(&self, bytes: u64) -> Result<Partial, Error> {
        let (file, name) = match unnamed(&self.folder) {
            Some(file) => (file, None),
            None => {
                let mut builder = tempfile::Builder::new();
                builder.prefix(".deberta-convert-").suffix(".tmp");
                #[cfg(unix)]
                builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
                let named = builder.tempfile_in(&self.folder);
                let named: NamedTempFile = named.map_err(|e| full_or_io(&self.folder, bytes, e))?;
                let (file, name) = named.into_parts();
                (file, Some(name))
            }
        };
        reserve(&file, bytes).map_err(|e| full_or_io(&self.folder, bytes, e))?;
        Ok(Partial { file, name, folder: self.folder.clone() })
    }
}

/// A file without a name, where the system has such.
#[cfg(target_os = "linux")]
fn unnamed(folder: &Path) -> Option<File> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    rustix::fs::open(folder, flags, Mode::from_raw_mode(0o666)).ok().map(File::from)
}

#[cfg(not(target_os = "linux"))]
fn unnamed(_folder: &Path) -> Option<File> {
    None
}

/// Asks for the room before the work, where the file system can say so.
#[cfg(target_os = "linux")]
fn reserve(file: &File, bytes: u64) -> std::io::Result<()> {
    use rustix::fs::FallocateFlags;
    use rustix::io::Errno;
    if bytes == 0 {
        return Ok(());
    }
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, bytes) {
        Err(error @ (Errno::NOSPC | Errno::DQUOT | Errno::FBIG)) => Err(error.into()),
        _ => Ok(()),
    }
}

#[cfg(not(target_os = "linux"))]
fn reserve(_file: &File, _bytes: u64) -> std::io::Result<()> {
    Ok(())
}

/// A file that has no name yet, or a temporary one that goes away with it.
pub(crate) struct Partial {
    file: File,
    name: Option<TempPath>,
    folder: PathBuf,
}

/// A path by which a file can be opened anew.
pub(crate) struct Anew(PathBuf);

impl Anew {
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Partial {
    pub fn file_mut(&mut self) -> &mut File {
        &mut self.file
    }

    /// A path that leads to the file as long as it is open here.
    pub fn open_anew(&self) -> Result<Anew, Error> {
        match &self.name {
            Some(name) => Ok(Anew(name.to_path_buf())),
            None => Ok(Anew(self.descriptor())),
        }
    }

    #[cfg(target_os = "linux")]
    fn descriptor(&self) -> PathBuf {
        use std::os::fd::AsRawFd;
        PathBuf::from(format!("/proc/self/fd/{}", self.file.as_raw_fd()))
    }

    #[cfg(not(target_os = "linux"))]
    fn descriptor(&self) -> PathBuf {
        unreachable!("only Linux has files without a name")
    }

    /// Brings the file to the disk and gives it its name.
    pub fn publish(self, path: &Path, replace: bool) -> Result<(), Error> {
        self.file.sync_all().map_err(|e| full_or_io(&self.folder, 0, e))?;
        let exists = |e: std::io::Error| match e.kind() {
            std::io::ErrorKind::AlreadyExists => Error::OutputExists { path: path.into() },
            _ => Error::io(path, "create")(e),
        };
        match self.name {
            Some(name) if replace => name.persist(path).map_err(|e| exists(e.error)),
            Some(name) => name.persist_noclobber(path).map_err(|e| exists(e.error)),
            None => link(&self.descriptor(), path, replace).map_err(exists),
        }
    }
}

#[cfg(target_os = "linux")]
fn link(descriptor: &Path, path: &Path, replace: bool) -> std::io::Result<()> {
    use rustix::fs::{AtFlags, CWD, linkat};
    let to = |name: &Path| linkat(CWD, descriptor, CWD, name, AtFlags::SYMLINK_FOLLOW).map_err(std::io::Error::from);
    match to(path) {
        Err(e) if replace && e.kind() == std::io::ErrorKind::AlreadyExists => {
            // A name can only be taken over by renaming, so the file needs one for a moment.
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let moment = path.with_file_name(format!(".{name}.{}.tmp", std::process::id()));
            to(&moment)?;
            fs::rename(&moment, path).inspect_err(|_| drop(fs::remove_file(&moment)))
        }
        outcome => outcome,
    }
}

#[cfg(not(target_os = "linux"))]
fn link(_descriptor: &Path, _path: &Path, _replace: bool) -> std::io::Result<()> {
    Err(std::io::ErrorKind::Unsupported.into())
}
