//! A checkpoint of any format: named tensors over mapped files.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};

use safetensors::Dtype;

use crate::error::Error;
use crate::locate::{self, Source};
use crate::storage::{Kind, MappedFile, SLACK, Storage, StorageBytes, Storages};
use crate::tensor::{Format, Other, TensorInfo, TensorReader, in_place};
use crate::view::View;
use crate::{hdf5, npy, npz, safetensors as safetensors_file, tensor_bundle, torch_legacy, torch_zip};

/// How many tensors a checkpoint may hold. The largest published DeBERTa has about a thousand; with an optimizer's
/// state, four thousand.
pub(crate) const MAX_TENSORS: usize = 100_000;
/// How long all names together may be.
pub(crate) const MAX_NAMES: usize = 16 << 20;

/// An open checkpoint. Files are mapped; nothing is read before it is asked for.
pub struct Checkpoint {
    path: PathBuf,
    format: Format,
    storages: Storages,
    tensors: Vec<TensorInfo>,
    by_name: HashMap<String, usize>,
    /// Tensors that are the sum of two others; see [`shared_embeddings`].
    derived: Vec<TensorInfo>,
    /// Names that stand for another tensor of this checkpoint, from its metadata.
    links: BTreeMap<String, String>,
    others: Vec<Other>,
    metadata: BTreeMap<String, String>,
    config: Option<serde_json::Value>,
}

/// What a format's reader finds; [`Checkpoint::assemble`] checks it.
#[derive(Default)]
pub(crate) struct Contents {
    pub storages: Vec<Storage>,
    pub tensors: Vec<TensorInfo>,
    pub others: Vec<Other>,
    pub metadata: BTreeMap<String, String>,
    /// A model's configuration that was kept among the tensors.
    pub config: Option<serde_json::Value>,
}

impl Checkpoint {
    /// Opens a checkpoint: a file of any format, an index of shards, a TensorBundle prefix, a model directory, a hub cache
    /// folder (`models--ORG--NAME`), or a SavedModel directory.
    ///
    /// In a directory the first of these is taken: `model.safetensors` and its index, `pytorch_model.bin` and its index,
    /// `tf_model.h5` and its index, a SavedModel, a TensorFlow checkpoint, a lone file of a known kind, and then NumPy's arrays
    /// (`*.npy`, in folders within too).
    ///
    /// # Errors
    /// A file that is absent, damaged, of an unknown format, or of one that is known and refused (TorchScript, the tar form
    /// of PyTorch before 0.4, a pickle that names anything outside the closed list): each says so in one sentence.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let source = locate::locate(path)?;
        let mut checkpoint = Self::open_source(path, &source)?;
        checkpoint.path = path.to_owned();
        Ok(checkpoint)
    }

    fn open_source(path: &Path, source: &Source) -> Result<Self, Error> {
        match source {
            Source::File(file) => {
                let map = MappedFile::open(file)?;
                let (format, contents) = read_file(&map, 0)?;
                Self::assemble(path, format, vec![map], contents)
            }
            Source::Shards { index, files, names } => Self::open_shards(path, index, files, names),
            Source::Bundle { index } => {
                let (files, contents) = tensor_bundle::read(index)?;
                Self::assemble(path, Format::TensorBundle, files, contents)
            }
            Source::Arrays { folder, files } => Self::open_arrays(path, folder, files),
        }
    }

    /// Files that together are one checkpoint.
    pub(crate) fn open_files(path: &Path, files: &[PathBuf]) -> Result<Self, Error> {
        Self::open_shards(path, path, files, &[])
    }

    /// A folder of arrays, each named by its path within it, joined by dots.
    fn open_arrays(path: &Path, folder: &Path, files: &[PathBuf]) -> Result<Self, Error> {
        let (mut all, mut maps) = (Contents::default(), Vec::new());
        for (number, file) in files.iter().enumerate() {
            let map = MappedFile::open(file)?;
            let within = file.strip_prefix(folder).unwrap_or(file).with_extension("");
            let parts: Vec<_> = within.iter().map(|part| part.to_string_lossy()).collect();
            let contents = npy::read(&map, number, parts.join("."))?;
            let shift = all.storages.len();
            all.storages.extend(contents.storages);
            all.tensors.extend(contents.tensors.into_iter().map(|t| TensorInfo { storage: t.storage + shift, ..t }));
            all.others.extend(contents.others);
            maps.push(map);
        }
        Self::assemble(path, Format::Npy, maps, all)
    }

    fn open_shards(path: &Path, index: &Path, files: &[PathBuf], names: &[(String, usize)]) -> Result<Self, Error> {
        let mut all = Contents::default();
        let mut maps = Vec::new();
        let mut format = None;
        let mut shard_of = HashMap::new();
        for (number, file) in files.iter().enumerate() {
            let map = MappedFile::open(file)?;
            let (found, contents) = read_file(&map, number)?;
            if *format.get_or_insert(found) != found {
                let problem = format!("its shards are of two formats: {} and {found}", format.unwrap_or(found));
                return Err(Error::damaged(index, "index", problem));
            }
            let shift = all.storages.len();
            all.storages.extend(contents.storages);
            for mut tensor in contents.tensors {
                tensor.storage += shift;
                shard_of.insert(tensor.name.clone(), number);
                all.tensors.push(tensor);
            }
            all.others.extend(contents.others);
            all.metadata.extend(contents.metadata);
            all.config = all.config.or(contents.config);
            maps.push(map);
        }
        // Hugging Face's shards of HDF5 hold a variable without its first scope.
        let inner = |name: &str| name.split_once('/').map(|(_, inner)| shard_of.get(inner).copied());
        for (name, shard) in names {
            let found = shard_of.get(name).copied().or_else(|| inner(name).flatten());
            if found != Some(*shard) {
                let problem = format!("it places {name} in {}, which does not hold it", files[*shard].display());
                return Err(Error::damaged(index, "index", problem));
            }
        }
        let format = format.ok_or_else(|| Error::damaged(index, "index", "it names no shard"))?;
        Self::assemble(path, format, maps, all)
    }

    /// Checks what a reader found: names are unique, views lie within their storages, and all of it together is in
    /// proportion to the files.
    fn assemble(path: &Path, format: Format, files: Vec<MappedFile>, contents: Contents) -> Result<Self, Error> {
        let Contents { mut storages, mut tensors, others, mut metadata, config } = contents;
        let first = files.first().map_or_else(|| path.to_owned(), |f| f.path.clone());
        let file_bytes: u64 = files.iter().map(MappedFile::len).sum();
        if tensors.len() > MAX_TENSORS || tensors.iter().map(|t| t.name.len()).sum::<usize>() > MAX_NAMES {
            let what = format!("listing {} tensors", tensors.len());
            return Err(Error::OutOfProportion { path: first, what, bytes: MAX_NAMES as u64, file_bytes });
        }
        let mut by_name = HashMap::with_capacity(tensors.len());
        let mut total = 0u64;
        for (i, tensor) in tensors.iter().enumerate() {
            let owner = &files[storages[tensor.storage].file].path;
            check_tensor(tensor, &storages[tensor.storage], owner)?;
            total += tensor.byte_len() as u64;
            if tensor.byte_len() as u64 > file_bytes + SLACK {
                let what = format!("the tensor {}", tensor.name);
                return Err(Error::OutOfProportion {
                    path: owner.clone(),
                    what,
                    bytes: tensor.byte_len() as u64,
                    file_bytes,
                });
            }
            if by_name.insert(tensor.name.clone(), i).is_some() {
                return Err(Error::damaged(owner, "checkpoint", format!("it holds {} twice", tensor.name)));
            }
        }
        if total > file_bytes.saturating_mul(16).saturating_add(SLACK) {
            let what = "all its tensors together".to_owned();
            return Err(Error::OutOfProportion { path: first, what, bytes: total, file_bytes });
        }
        let links = take_links(&mut metadata, &by_name);
        let derived = shared_embeddings(&tensors, &by_name, &mut storages);
        // The single zero behind parameters that old checkpoints leave out; see `TensorInfo::zeros`.
        storages.push(Storage {
            file: 0,
            entry: "zero".into(),
            len: 8,
            big_endian: false,
            checksum: None,
            kind: Kind::Inline(vec![0; 8]),
        });
        tensors.shrink_to_fit();
        let storages = Storages::new(files, storages);
        Ok(Self { path: path.to_owned(), format, storages, tensors, by_name, derived, links, others, metadata, config })
    }

    /// What was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The format of its files.
    pub fn format(&self) -> Format {
        self.format
    }

    /// The files it lies in, the index of a TensorBundle among them.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.storages.files.iter().map(|f| f.path.as_path())
    }

    /// The size of its files together, in bytes.
    pub fn file_bytes(&self) -> u64 {
        self.storages.files.iter().map(MappedFile::len).sum()
    }

    /// Every tensor, in the order of the file.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = &TensorInfo> {
        self.tensors.iter()
    }

    /// Embeddings that a discriminator shares with its generator: not in the file as such, but the sum of two that are.
    pub(crate) fn derived(&self) -> &[TensorInfo] {
        &self.derived
    }

    /// The tensor of that name. Names that the file's metadata declares equal to another's count.
    pub fn get(&self, name: &str) -> Option<&TensorInfo> {
        let index = self.by_name.get(name).or_else(|| self.by_name.get(self.links.get(name)?))?;
        self.tensors.get(*index)
    }

    /// Names that the file declares to be the same array as another tensor of it (safetensors' metadata).
    pub fn links(&self) -> &BTreeMap<String, String> {
        &self.links
    }

    /// Tensors that are the very same bytes in the same order under several names: each name after the first, with the
    /// first. Tied weights of a `torch.save` file appear so.
    pub fn aliases(&self) -> Vec<(&str, &str)> {
        let mut first: HashMap<(usize, String, &[usize], View), &str> = HashMap::new();
        let mut aliases = Vec::new();
        for tensor in self.tensors.iter().filter(|t| t.elements() > 0) {
            let key = (tensor.storage, tensor.dtype.to_string(), tensor.shape.as_slice(), tensor.view.simplified());
            match first.get(&key) {
                Some(kept) => aliases.push((tensor.name.as_str(), *kept)),
                None => drop(first.insert(key, &tensor.name)),
            }
        }
        aliases
    }

    /// What it holds besides: numbers, texts, and tensors of kinds that are not read, such as sparse ones.
    pub fn others(&self) -> &[Other] {
        &self.others
    }

    /// Free text kept with the tensors (safetensors' metadata).
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// A model's configuration kept inside the checkpoint, as Microsoft's programs do under `config`.
    pub fn embedded_config(&self) -> Option<&serde_json::Value> {
        self.config.as_ref()
    }

    /// The elements of the tensor called `name`, one after the other, least significant byte first: borrowed from the map
    /// where they lie so, else gathered.
    ///
    /// # Errors
    /// An unknown name, and whatever decoding finds.
    pub fn bytes(&self, name: &str) -> Result<Cow<'_, [u8]>, Error> {
        let found = self.get(name);
        self.read(found.ok_or_else(|| Error::NoSuchTensor { path: self.path.clone(), name: name.to_owned() })?)
    }

    /// The same for a tensor of this checkpoint, or one derived from it by the name map.
    ///
    /// # Errors
    /// Whatever decoding finds.
    pub fn read(&self, tensor: &TensorInfo) -> Result<Cow<'_, [u8]>, Error> {
        let TensorReader { storage, swap, .. } = self.reader(tensor)?;
        match (storage, in_place(tensor, swap)) {
            (StorageBytes::Mapped(storage), Some(range)) => Ok(Cow::Borrowed(&storage[range])),
            (storage, _) => {
                let mut out = vec![0; tensor.byte_len()];
                TensorReader { tensor, storage, swap }.fill(0, &mut out);
                Ok(Cow::Owned(out))
            }
        }
    }

    /// Lets the system take back the memory that a tensor of a mapped file takes. Reading it again is as good, but slower.
    pub fn release(&self, tensor: &TensorInfo) {
        self.storages.release(tensor.storage);
    }

    /// A reader of parts of a tensor, for those too large to gather whole.
    pub(crate) fn reader<'c, 't>(&'c self, tensor: &'t TensorInfo) -> Result<TensorReader<'c, 't>, Error> {
        if self.format == Format::TensorBundle {
            self.storages.verify(tensor.storage)?;
        }
        let storage = self.storages.bytes(tensor.storage)?;
        Ok(TensorReader { tensor, storage, swap: self.storages.list[tensor.storage].big_endian })
    }

    /// Checks the checksum that the format keeps for a tensor's bytes; formats without one pass.
    ///
    /// # Errors
    /// A checksum that does not agree.
    pub fn verify_checksum(&self, tensor: &TensorInfo) -> Result<(), Error> {
        self.storages.verify(tensor.storage)
    }

    /// A tensor of zeros, for the parameters that a checkpoint leaves out because they are zero.
    pub(crate) fn zeros(&self, name: &str, dtype: Dtype, shape: &[usize]) -> TensorInfo {
        let storage = self.storages.list.len() - 1;
        let view = View::repeated(shape.iter().product());
        TensorInfo { name: name.to_owned(), dtype, shape: shape.to_vec(), container: 0, storage, view }
    }
}

impl fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checkpoint")
            .field("path", &self.path)
            .field("format", &self.format)
            .field("tensors", &self.tensors.len())
            .finish_non_exhaustive()
    }
}

/// Recognises a file by its first bytes and reads what it lists.
fn read_file(map: &MappedFile, file: usize) -> Result<(Format, Contents), Error> {
    let format = locate::sniff(map)?;
    let contents = match format {
        Format::Safetensors => safetensors_file::read(map, file)?,
        Format::TorchZip => torch_zip::read(map, file)?,
        Format::TorchLegacy => torch_legacy::read(map, file)?,
        Format::Hdf5 => hdf5::read(map, file)?,
        Format::Npz => npz::read(map, file)?,
        Format::Npy => {
            let name = map.path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            npy::read(map, file, name)?
        }
        Format::TensorBundle => {
            let advice = "point at PREFIX.index or at PREFIX; the data files beside it are then found";
            return Err(Error::Unsupported {
                path: map.path.clone(),
                what: "a TensorBundle as a shard".into(),
                advice,
            });
        }
    };
    Ok((format, contents))
}

fn check_tensor(tensor: &TensorInfo, storage: &Storage, path: &Path) -> Result<(), Error> {
    let damaged = |problem: String| Error::damaged(path, "checkpoint", problem);
    let elements = tensor.shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
    let bits = elements.and_then(|n| n.checked_mul(tensor.dtype.bitsize()));
    if bits.is_none_or(|b| b > isize::MAX as usize) {
        return Err(damaged(format!("the shape of {}, {:?}, overflows", tensor.name, tensor.shape)));
    }
    if tensor.view.count() != Some(tensor.units()) {
        return Err(damaged(format!("{}: shape {:?} and strides disagree", tensor.name, tensor.shape)));
    }
    let end = tensor.view.end().and_then(|end| end.checked_mul(tensor.element_size()));
    if tensor.units() > 0 && end.is_none_or(|end| end as u64 > storage.len) {
        let problem = format!(
            "{} reaches to byte {} of {}, which has {}",
            tensor.name,
            end.map_or_else(|| "2^64".to_owned(), |e| e.to_string()),
            storage.entry,
            storage.len
        );
        return Err(damaged(problem));
    }
    Ok(())
}

/// Gradient-disentangled embedding sharing: a discriminator is trained as a difference, `_weight`, to its generator's
/// embeddings, and computes with the sum. Where a file holds both models and not the sum, the sum is derived.
///
/// Reference: Microsoft's `DeBERTa/apps/tasks/rtd_task.py` (`discriminator_fw`).
fn shared_embeddings(
    tensors: &[TensorInfo],
    by_name: &HashMap<String, usize>,
    storages: &mut Vec<Storage>,
) -> Vec<TensorInfo> {
    let mut derived = Vec::new();
    for difference in tensors {
        let Some((before, module)) =
            difference.name.strip_suffix("_weight").and_then(|n| n.split_once("discriminator."))
        else {
            continue;
        };
        let generator = by_name.get(&format!("{before}generator.{module}weight")).map(|&i| &tensors[i]);
        let name = format!("{before}discriminator.{module}weight");
        let Some(generator) = generator.filter(|g| g.shape == difference.shape && !by_name.contains_key(&name)) else {
            continue;
        };
        if (generator.dtype, difference.dtype) != (Dtype::F32, Dtype::F32) {
            continue;
        }
        let Some(view) = View::row_major(&difference.shape, 0) else { continue };
        let storage = storages.len();
        storages.push(Storage {
            file: storages[difference.storage].file,
            entry: name.clone(),
            len: difference.byte_len() as u64,
            big_endian: false,
            checksum: None,
            kind: Kind::Sum(Box::new([generator.clone(), difference.clone()])),
        });
        derived.push(TensorInfo { name, dtype: Dtype::F32, storage, view, ..difference.clone() });
    }
    derived
}

/// Moves entries that map an absent name to a present tensor out of the metadata: that is how safetensors files note an
/// array that was under two names (`safetensors.torch.save_model`).
fn take_links(metadata: &mut BTreeMap<String, String>, by_name: &HashMap<String, usize>) -> BTreeMap<String, String> {
    let is_link = |name: &String, target: &String| by_name.contains_key(target) && !by_name.contains_key(name);
    let links: BTreeMap<_, _> =
        metadata.iter().filter(|(n, t)| is_link(n, t)).map(|(n, t)| (n.clone(), t.clone())).collect();
    metadata.retain(|name, _| !links.contains_key(name));
    links
}
