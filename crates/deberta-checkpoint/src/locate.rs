//! From a path that a person gives to the files of a checkpoint, and from a file's first bytes to its format.

use std::path::{Component, Path, PathBuf};

use serde_json::Value;

use crate::error::Error;
use crate::storage::MappedFile;
use crate::tensor::Format;
use crate::{npy, npz};

/// The files of a checkpoint.
#[derive(Debug)]
pub(crate) enum Source {
    File(PathBuf),
    /// Shards listed by an index, and which tensor the index places in which.
    Shards {
        index: PathBuf,
        files: Vec<PathBuf>,
        names: Vec<(String, usize)>,
    },
    /// A TensorBundle, by its `.index`.
    Bundle {
        index: PathBuf,
    },
    /// A folder of NumPy's arrays, at any depth, sorted.
    Arrays {
        folder: PathBuf,
        files: Vec<PathBuf>,
    },
}

impl Source {
    /// The files that hold tensors or say where they are.
    pub fn files(self) -> Vec<PathBuf> {
        match self {
            Self::File(file) => vec![file],
            Self::Shards { files, .. } | Self::Arrays { files, .. } => files,
            Self::Bundle { index } => vec![index],
        }
    }
}

/// What Hugging Face's programs call weights, the preferred first.
const WEIGHTS: &[&str] = &[
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "tf_model.h5",
    "tf_model.h5.index.json",
];

/// Endings of files that may be a lone checkpoint in a folder.
const ENDINGS: &[&str] = &["safetensors", "bin", "pt", "pth", "ckpt", "h5", "hdf5", "index", "npz"];

/// Files in a model folder that have such an ending and hold no model.
const NOT_WEIGHTS: &[&str] =
    &["training_args.bin", "optimizer.pt", "optimizer.bin", "scheduler.pt", "scheduler.bin", "rng_state.pth"];

/// Finds the files that `path` stands for.
pub(crate) fn locate(path: &Path) -> Result<Source, Error> {
    if path.is_dir() {
        return in_directory(&model_directory(path)?);
    }
    if path.exists() {
        return in_file(path);
    }
    // TensorFlow names a checkpoint by the common start of its files.
    let index = with_suffix(path, ".index");
    if index.is_file() {
        return Ok(Source::Bundle { index });
    }
    let missing = std::io::Error::from(std::io::ErrorKind::NotFound);
    Err(Error::io(path, "open")(missing))
}

/// The folder that holds a model's files: `path` itself, or the snapshot inside a hub cache folder `models--ORG--NAME`.
///
/// # Errors
/// A cache folder without a snapshot.
pub fn model_directory(path: &Path) -> Result<PathBuf, Error> {
    let snapshots = path.join("snapshots");
    if !snapshots.is_dir() || path.join("config.json").exists() {
        return Ok(path.to_owned());
    }
    if let Ok(revision) = std::fs::read_to_string(path.join("refs/main")) {
        let snapshot = snapshots.join(revision.trim());
        if is_plain(Path::new(revision.trim())) && snapshot.is_dir() {
            return Ok(snapshot);
        }
    }
    // No branch noted: the snapshot that changed last.
    let entries = std::fs::read_dir(&snapshots).map_err(Error::io(&snapshots, "list"))?;
    let newest =
        entries.flatten().filter(|e| e.path().is_dir()).max_by_key(|e| e.metadata().and_then(|m| m.modified()).ok());
    newest.map(|e| e.path()).ok_or_else(|| Error::NotFound { path: snapshots, expected: "a snapshot folder".into() })
}

fn in_directory(folder: &Path) -> Result<Source, Error> {
    for name in WEIGHTS {
        let path = folder.join(name);
        if path.is_file() {
            return in_file(&path);
        }
    }
    // A SavedModel keeps its variables in a folder of that name.
    for folder in [folder, &folder.join("variables")] {
        let index = folder.join("variables.index");
        if index.is_file() {
            return Ok(Source::Bundle { index });
        }
    }
    if let Some(index) = latest_tensorflow_checkpoint(folder) {
        return Ok(Source::Bundle { index });
    }
    let mut lone = candidates(folder)?;
    match (lone.pop(), lone.len()) {
        (Some(path), 0) => in_file(&path),
        (None, _) => match arrays(folder)? {
            files if files.is_empty() => Err(Error::NotFound {
                path: folder.to_owned(),
                expected: format!("{}, or arrays *.npy", WEIGHTS.join(", ")),
            }),
            files => Ok(Source::Arrays { folder: folder.to_owned(), files }),
        },
        (Some(one), more) => Err(Error::NotFound {
            path: folder.to_owned(),
            expected: format!(
                "{}; it holds {} other files that might be meant, such as {}: name one",
                WEIGHTS.join(", "),
                more + 1,
                one.display()
            ),
        }),
    }
}

/// What TensorFlow's text file `checkpoint` names as the newest.
fn latest_tensorflow_checkpoint(folder: &Path) -> Option<PathBuf> {
    let text = std::fs::read_to_string(folder.join("checkpoint")).ok().filter(|t| t.len() < 1 << 20)?;
    let line = text.lines().find_map(|l| l.strip_prefix("model_checkpoint_path:"))?;
    let prefix = line.trim().trim_matches('"');
    let index = with_suffix(&folder.join(Path::new(prefix).file_name()?), ".index");
    index.is_file().then_some(index)
}

fn candidates(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = std::fs::read_dir(folder).map_err(Error::io(folder, "list"))?;
    let is_candidate = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let ending = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
        path.is_file()
            && !NOT_WEIGHTS.contains(&&*name)
            && (name.ends_with(".index.json") || ENDINGS.contains(&&*ending))
    };
    let mut found: Vec<PathBuf> = entries.flatten().map(|e| e.path()).filter(is_candidate).collect();
    found.sort();
    // An index says more than the shards beside it.
    if let Some(index) = found.iter().find(|p| p.to_string_lossy().ends_with(".index.json")).cloned() {
        return Ok(vec![index]);
    }
    Ok(found)
}

/// How many arrays a folder may hold, and how deep: each is mapped, and the system maps 65530 files.
const MAX_ARRAYS: usize = 20_000;
const MAX_DEPTH: usize = 32;

/// Every `.npy` below a folder. Links to folders are not followed, so that circles end.
fn arrays(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let (mut found, mut folders) = (Vec::new(), vec![(folder.to_owned(), 0)]);
    while let Some((folder, depth)) = folders.pop() {
        for entry in std::fs::read_dir(&folder).map_err(Error::io(&folder, "list"))? {
            let entry = entry.map_err(Error::io(&folder, "list"))?;
            let path = entry.path();
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                if depth < MAX_DEPTH {
                    folders.push((path, depth + 1));
                }
            } else if path.extension().is_some_and(|e| e == "npy") {
                found.push(path);
            }
            if found.len() > MAX_ARRAYS || folders.len() > MAX_ARRAYS {
                return Err(Error::damaged(
                    &folder,
                    "folder",
                    format!("it holds more than {MAX_ARRAYS} arrays or folders"),
                ));
            }
        }
    }
    found.sort();
    Ok(found)
}

fn in_file(path: &Path) -> Result<Source, Error> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    if name.ends_with(".json") {
        return shards(path);
    }
    if name.ends_with(".index") {
        return Ok(Source::Bundle { index: path.to_owned() });
    }
    if name.contains(".data-") && name.contains("-of-") {
        // One of the data files of a TensorBundle; its index has the name before `.data-`.
        let prefix = name.split(".data-").next().unwrap_or_default();
        let index = path.with_file_name(format!("{prefix}.index"));
        if index.is_file() {
            return Ok(Source::Bundle { index });
        }
    }
    Ok(Source::File(path.to_owned()))
}

/// Reads `*.index.json`: which tensor lies in which file beside it.
fn shards(index: &Path) -> Result<Source, Error> {
    const LARGEST: u64 = 32 << 20;
    let damaged = |problem: String| Error::damaged(index, "index", problem);
    let len = std::fs::metadata(index).map_err(Error::io(index, "read the size of"))?.len();
    if len > LARGEST {
        return Err(Error::OutOfProportion {
            path: index.into(),
            what: "the index".into(),
            bytes: len,
            file_bytes: LARGEST,
        });
    }
    let text = std::fs::read(index).map_err(Error::io(index, "read"))?;
    let json: Value = serde_json::from_slice(&text).map_err(|e| damaged(format!("not JSON: {e}")))?;
    let Some(map) = json.get("weight_map").and_then(Value::as_object) else {
        return Err(Error::UnknownFormat {
            path: index.into(),
            found: "JSON without a weight_map, so no index of shards".into(),
        });
    };
    let mut files: Vec<PathBuf> = Vec::new();
    let mut names = Vec::with_capacity(map.len());
    for (name, file) in map {
        let file = file.as_str().ok_or_else(|| damaged(format!("the file of {name} is not a string")))?;
        if !is_plain(Path::new(file)) {
            return Err(damaged(format!("the file of {name} is {file:?}, which is not a name beside the index")));
        }
        let path = index.with_file_name(file);
        let shard = files.iter().position(|f| *f == path).unwrap_or_else(|| {
            files.push(path);
            files.len() - 1
        });
        if files.len() > 10_000 {
            return Err(damaged("it names more than 10000 files".into()));
        }
        names.push((name.clone(), shard));
    }
    let order = sorted_order(&files);
    let mut place = vec![0; files.len()];
    order.iter().enumerate().for_each(|(new, &old)| place[old] = new);
    names.iter_mut().for_each(|(_, shard)| *shard = place[*shard]);
    let files = order.into_iter().map(|i| files[i].clone()).collect();
    Ok(Source::Shards { index: index.to_owned(), files, names })
}

fn sorted_order(files: &[PathBuf]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..files.len()).collect();
    order.sort_by_key(|&i| &files[i]);
    order
}

/// Whether a name that a file gives stays in the file's own folder.
pub(crate) fn is_plain(name: &Path) -> bool {
    let mut components = name.components();
    matches!((components.next(), components.next()), (Some(Component::Normal(_)), None))
}

pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// The format of a file, from its first and last bytes.
pub(crate) fn sniff(map: &MappedFile) -> Result<Format, Error> {
    let bytes = map.bytes();
    let refused = |format, advice| Err(Error::RefusedFormat { path: map.path.clone(), format, advice });
    let unknown = |found: &str| Err(Error::UnknownFormat { path: map.path.clone(), found: found.into() });
    if bytes.is_empty() {
        return unknown("the file is empty");
    }
    if bytes.starts_with(b"PK\x03\x04") || bytes.starts_with(b"PK\x05\x06") {
        return Ok(if npz::is_npz(map) { Format::Npz } else { Format::TorchZip });
    }
    if bytes.starts_with(npy::MAGIC) {
        return Ok(Format::Npy);
    }
    if has_hdf5_signature(bytes) {
        return Ok(Format::Hdf5);
    }
    if bytes.get(257..262) == Some(b"ustar") || is_torch_tar(bytes) {
        return refused("a tar archive, as PyTorch wrote before 0.4", "load it with an old PyTorch and save it again");
    }
    if bytes.ends_with(&crate::tensor_bundle::MAGIC) {
        return refused(
            "a TensorFlow table without its data",
            "name it PREFIX.index beside its PREFIX.data-00000-of-00001, or, if it is a checkpoint of before 2016, save it again with tf.train.Saver",
        );
    }
    for (magic, format, advice) in FOREIGN {
        if bytes.starts_with(magic) {
            return refused(format, advice);
        }
    }
    let header = bytes.first_chunk::<8>().map(|b| u64::from_le_bytes(*b));
    let looks_like_header =
        bytes.get(8) == Some(&b'{') || header.is_some_and(|n| n.checked_add(8) == Some(bytes.len() as u64));
    if looks_like_header || map.path.extension().is_some_and(|e| e.eq_ignore_ascii_case("safetensors")) {
        return Ok(Format::Safetensors);
    }
    if looks_like_pickle(bytes) {
        return Ok(Format::TorchLegacy);
    }
    let head: String = bytes.iter().take(8).map(|b| format!("{b:02x} ")).collect();
    unknown(&format!("it begins with {}", head.trim_end()))
}

/// Formats that people hand over by mistake.
const FOREIGN: &[(&[u8], &str, &str)] = &[
    (b"GGUF", "a GGUF file", "convert from the model that it was made of"),
    (b"\x1f\x8b", "a gzip archive", "unpack it first"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it first"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive", "unpack it first"),
    (b"BZh", "a bzip2 archive", "unpack it first"),
    (b"\xfd7zXZ", "an xz archive", "unpack it first"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself", "fetch the file with `git lfs pull`"),
    (b"<!DOCTYPE", "a web page", "fetch the file itself rather than the page about it"),
    (b"<html", "a web page", "fetch the file itself rather than the page about it"),
];

/// HDF5 may begin after a user block, at 512 or a power of two times that.
fn has_hdf5_signature(bytes: &[u8]) -> bool {
    let at = |offset: usize| bytes.get(offset..offset + 8) == Some(b"\x89HDF\r\n\x1a\n");
    at(0) || (0..12).map(|k| 512usize << k).any(at)
}

/// The tar form of PyTorch before 0.4 holds the files `sys_info`, `storages`, `tensors` and `pickle`.
fn is_torch_tar(bytes: &[u8]) -> bool {
    let name = bytes.get(..100).and_then(|n| n.split(|&b| b == 0).next()).unwrap_or_default();
    let is_tar = bytes.len() >= 512 && bytes[100..108].iter().all(|b| matches!(b, b'0'..=b'7' | b' ' | 0));
    is_tar && matches!(name, b"sys_info" | b"storages" | b"tensors" | b"pickle")
}

/// A protocol announcement, or an opcode that protocols 0 and 1 begin with.
pub(crate) fn may_be_pickle(bytes: &[u8]) -> bool {
    match bytes {
        [0x80, 0..=5, ..] => true,
        [first, ..] => b"(cilL]}ISVXUTFGJKMN)".contains(first),
        [] => false,
    }
}

fn looks_like_pickle(bytes: &[u8]) -> bool {
    if bytes.first() == Some(&0x80) {
        return may_be_pickle(bytes);
    }
    may_be_pickle(bytes) && {
        let (pickle, outcome) = crate::pickle::parse(bytes);
        outcome.is_ok() || !pickle.globals().is_empty()
    }
}
