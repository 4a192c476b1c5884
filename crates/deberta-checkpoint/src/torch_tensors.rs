//! What the pickle of a `torch.save` file says about tensors.
//!
//! A tensor is a call of `torch._utils._rebuild_tensor_v2(storage, offset, size, stride, …)`, or of one of its older, newer or
//! wrapping forms; a storage is a persistent id `("storage", TYPE, KEY, DEVICE, NUMBER)`. Dictionaries and lists give
//! the names, joined by dots. Everything else is listed and left alone.
//!
//! Reference: `torch/_utils.py`, `torch/_tensor.py` (`Tensor.__reduce_ex__`), `torch/storage.py`.

use std::collections::HashMap;
use std::path::Path;

use safetensors::Dtype;
use serde_json::Value;

use crate::checkpoint::{Contents, MAX_TENSORS};
use crate::error::Error;
use crate::pickle::{Call, Id, Node, Pickle, PickleError};
use crate::storage::{MappedFile, Storage};
use crate::tensor::{Other, TensorInfo};
use crate::view::View;

/// How deep dictionaries may lie within each other.
const MAX_DEPTH: usize = 32;
/// How many things that are not tensors are listed.
const MAX_OTHERS: usize = 10_000;

/// The storages of a file, by the keys its pickle uses.
pub(crate) struct Keyed<'k> {
    pub path: &'k Path,
    pub storages: &'k [Storage],
    pub keys: &'k HashMap<String, usize>,
}

/// A storage as a pickle refers to it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct StorageRef {
    pub key: String,
    /// The type of the elements; `None` for an untyped storage, counted in bytes.
    pub kind: ElementType,
    /// The number of elements.
    pub count: usize,
    /// Legacy only: where this storage begins within the one that has the key, in elements.
    pub view_offset: usize,
}

/// The element type of a storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ElementType {
    Dtype(Dtype),
    Untyped,
    /// One that safetensors has no name for, with the bytes of an element.
    Foreign(&'static str, usize),
}

impl ElementType {
    pub fn size(self) -> usize {
        match self {
            Self::Dtype(dtype) => (dtype.bitsize() / 8).max(1),
            Self::Untyped => 1,
            Self::Foreign(_, size) => size,
        }
    }
}

/// Fails where the pickle asks for anything outside the closed list, or is damaged.
pub(crate) fn refuse(
    map: &MappedFile,
    entry: &str,
    pickle: &Pickle<'_>,
    outcome: Result<(), PickleError>,
) -> Result<(), Error> {
    if let Some(refused) = pickle.refused() {
        return Err(Error::RefusedGlobal {
            path: map.path.clone(),
            entry: entry.to_owned(),
            refused: Box::new(refused),
        });
    }
    outcome.map_err(|source| Error::Pickle { path: map.path.clone(), entry: entry.to_owned(), source })
}

/// Every tensor that the pickle describes.
pub(crate) fn read(pickle: &Pickle<'_>, keyed: &Keyed<'_>) -> Result<Contents, Error> {
    let mut walk = Walk { pickle, keyed, has_tensor: tensors_within(pickle), contents: Contents::default() };
    if let Some(root) = pickle.root() {
        walk.value(String::new(), 0, root, 0)?;
        walk.contents.config = config(pickle, root);
    }
    Ok(walk.contents)
}

/// Every storage the pickle refers to, once, in order of first use.
pub(crate) fn storages(pickle: &Pickle<'_>, path: &Path) -> Result<Vec<StorageRef>, Error> {
    let mut found: Vec<StorageRef> = Vec::new();
    let mut seen: HashMap<String, usize> = HashMap::new();
    for (_, node) in pickle.nodes() {
        let Node::Persistent(id) = node else { continue };
        let storage = storage_ref(pickle, *id).map_err(|problem| Error::damaged(path, "pickle", problem))?;
        match seen.get(&storage.key) {
            Some(&i) => {
                // Legacy views state their own length; the storage is as long as the longest claim.
                found[i].count = found[i].count.max(storage.count);
            }
            None => {
                seen.insert(storage.key.clone(), found.len());
                found.push(storage);
            }
        }
    }
    Ok(found)
}

struct Walk<'w, 'p> {
    pickle: &'w Pickle<'p>,
    keyed: &'w Keyed<'w>,
    has_tensor: Vec<bool>,
    contents: Contents,
}

impl Walk<'_, '_> {
    fn damaged(&self, problem: impl Into<String>) -> Error {
        Error::damaged(self.keyed.path, "pickle", problem)
    }

    /// `container` is how much of the name is the path of the containers around the value.
    fn value(&mut self, name: String, container: usize, id: Id, depth: usize) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(self.damaged(format!("containers lie more than {MAX_DEPTH} deep in each other at {name}")));
        }
        if let Node::Call(call) = self.pickle.node(id)
            && let Some(global) = self.pickle.global(call.callable)
            && is_rebuild(global)
        {
            return self.tensor(name, container, global, &call.args);
        }
        if !self.has_tensor[id.0 as usize] {
            return self.other(name, self.pickle.render(id), false);
        }
        for (key, child) in self.children(id) {
            let container = if name.is_empty() { 0 } else { name.len() + 1 };
            let inner = if name.is_empty() { key } else { format!("{name}.{key}") };
            self.value(inner, container, child, depth + 1)?;
        }
        Ok(())
    }

    /// The members of a container with their names. Of equal keys the last counts, at the place of the first, as in Python.
    fn children(&self, id: Id) -> Vec<(String, Id)> {
        let numbered = |items: &[Id]| items.iter().enumerate().map(|(i, &v)| (i.to_string(), v)).collect();
        if let Some(items) = self.pickle.items(id) {
            let mut children: Vec<(String, Id)> = Vec::with_capacity(items.len());
            let mut places: HashMap<String, usize> = HashMap::new();
            for &(key, value) in items {
                let key = self.pickle.str(key).map_or_else(|| self.pickle.render(key), str::to_owned);
                match places.get(&key) {
                    Some(&place) => children[place].1 = value,
                    None => {
                        places.insert(key.clone(), children.len());
                        children.push((key, value));
                    }
                }
            }
            return children;
        }
        match self.pickle.node(id) {
            Node::List(items) | Node::Tuple(items) | Node::Set(items) => numbered(items),
            Node::Call(call) => {
                let mut children: Vec<_> = numbered(&call.args);
                children.extend(call.state.map(|s| ("state".to_owned(), s)));
                children.extend(numbered(&call.list));
                children
            }
            _ => Vec::new(),
        }
    }

    fn other(&mut self, name: String, what: String, is_tensor: bool) -> Result<(), Error> {
        if self.contents.others.len() >= MAX_OTHERS {
            return Err(self.damaged(format!("it holds more than {MAX_OTHERS} things that are not tensors")));
        }
        let name = if name.is_empty() { "(all of it)".to_owned() } else { name };
        self.contents.others.push(Other { name, what, is_tensor });
        Ok(())
    }

    fn tensor(&mut self, name: String, container: usize, global: (&str, &str), args: &[Id]) -> Result<(), Error> {
        if self.contents.tensors.len() >= MAX_TENSORS {
            return Err(self.damaged(format!("it holds more than {MAX_TENSORS} tensors")));
        }
        let name = if name.is_empty() { "tensor".to_owned() } else { name };
        let rebuilt =
            rebuild(self.pickle, global, args, 0).map_err(|problem| self.damaged(format!("{name}: {problem}")))?;
        let strided = match rebuilt {
            Rebuilt::Strided(strided) => strided,
            Rebuilt::Foreign(what) => return self.other(name, what, true),
        };
        let Strided { storage, dtype, shape, strides, offset } = strided;
        let dtype = match dtype {
            ElementType::Dtype(dtype) => dtype,
            ElementType::Foreign(what, _) => return self.other(name, format!("a tensor of type {what}"), true),
            ElementType::Untyped => return Err(self.damaged(format!("{name}: its storage has no type"))),
        };
        let Some(&index) = self.keyed.keys.get(&storage.key) else {
            let problem = format!("{name}: its storage {:?} is not in the file", storage.key);
            return Err(self.damaged(problem));
        };
        let promised = storage.count.checked_mul(storage.kind.size()).map(|n| n as u64);
        let held = self.keyed.storages[index].len;
        if promised.is_none_or(|p| p > held) {
            let entry = &self.keyed.storages[index].entry;
            let problem = format!("{name}: {entry} holds {held} bytes where the pickle promises {promised:?}");
            return Err(self.damaged(problem));
        }
        let offset = offset.checked_add(storage.view_offset);
        // Two numbers of four bits a byte: PyTorch counts bytes, safetensors counts numbers.
        let mut shape = shape;
        let view = offset.and_then(|offset| View::strided(&shape, &strides, offset));
        let view = view.ok_or_else(|| self.damaged(format!("{name}: its shape or strides overflow")))?;
        if dtype == Dtype::F4
            && let Some(last) = shape.last_mut()
        {
            *last = last.checked_mul(2).ok_or_else(|| self.damaged(format!("{name}: its shape overflows")))?;
        }
        self.contents.tensors.push(TensorInfo { name, dtype, shape, container, storage: index, view });
        Ok(())
    }
}

/// A tensor as its arguments describe it.
struct Strided {
    storage: StorageRef,
    dtype: ElementType,
    shape: Vec<usize>,
    strides: Vec<usize>,
    offset: usize,
}

enum Rebuilt {
    Strided(Strided),
    /// A tensor of a kind that safetensors has no place for.
    Foreign(String),
}

fn is_rebuild((module, name): (&str, &str)) -> bool {
    (module == "torch._utils" && name.starts_with("_rebuild"))
        || (module, name) == ("torch._tensor", "_rebuild_from_type_v2")
}

fn rebuild(pickle: &Pickle<'_>, global: (&str, &str), args: &[Id], depth: usize) -> Result<Rebuilt, String> {
    let name = global.1;
    let inner = |id: Id| match pickle.node(id) {
        Node::Call(call) => match pickle.global(call.callable) {
            Some(global) if is_rebuild(global) && depth < 8 => rebuild(pickle, global, &call.args, depth + 1),
            _ => Err(format!("{name} wraps something that is not a tensor")),
        },
        _ => Err(format!("{name} wraps something that is not a tensor")),
    };
    match (name, args) {
        (
            "_rebuild_tensor" | "_rebuild_tensor_v2" | "_rebuild_tensor_v3",
            [storage, offset, size, stride, rest @ ..],
        ) => {
            let Node::Persistent(id) = pickle.node(*storage) else {
                return Err(format!("{name} is not given a storage"));
            };
            let storage = storage_ref(pickle, *id)?;
            let dtype = if name == "_rebuild_tensor_v3" {
                let global = rest.get(2).and_then(|&d| pickle.global(d));
                global.and_then(|(m, n)| if m == "torch" { dtype_of(n) } else { None }).ok_or("its dtype is missing")?
            } else {
                storage.kind
            };
            let metadata = rest.get(if name == "_rebuild_tensor_v3" { 3 } else { 2 });
            if let Some(bit) = metadata.and_then(|&m| lazy_bit(pickle, m)) {
                return Ok(Rebuilt::Foreign(format!(
                    "a tensor with a pending {bit}; save tensor.resolve_{bit}() instead"
                )));
            }
            let sizes =
                |id: Id, what: &str| pickle.sizes(id).ok_or_else(|| format!("its {what} is not a tuple of sizes"));
            let (shape, strides) = (sizes(*size, "shape")?, sizes(*stride, "stride")?);
            if shape.len() != strides.len() {
                return Err(format!("it has {} dimensions and {} strides", shape.len(), strides.len()));
            }
            let offset = pickle.size(*offset).ok_or("its offset is not a size")?;
            Ok(Rebuilt::Strided(Strided { storage, dtype, shape, strides, offset }))
        }
        ("_rebuild_parameter" | "_rebuild_parameter_with_state", [data, ..]) => inner(*data),
        ("_rebuild_from_type_v2", [func, _type, inner_args, ..]) => {
            match (pickle.global(*func), pickle.tuple(*inner_args)) {
                (Some(global), Some(args)) if is_rebuild(global) && depth < 8 => {
                    rebuild(pickle, global, args, depth + 1)
                }
                _ => Err(format!("{name} does not wrap a tensor")),
            }
        }
        ("_rebuild_sparse_tensor" | "_rebuild_sparse_csr_tensor", _) => Ok(Rebuilt::Foreign("a sparse tensor".into())),
        ("_rebuild_nested_tensor", _) => Ok(Rebuilt::Foreign("a nested tensor".into())),
        ("_rebuild_qtensor", _) => Ok(Rebuilt::Foreign("a quantized tensor".into())),
        ("_rebuild_meta_tensor_no_storage", _) => Ok(Rebuilt::Foreign("a meta tensor, which has no numbers".into())),
        ("_rebuild_device_tensor_from_numpy" | "_rebuild_device_tensor_from_cpu_tensor", _) => {
            Ok(Rebuilt::Foreign("a tensor of an accelerator; save tensor.cpu() instead".into()))
        }
        _ => Err(format!("{name} has {} arguments", args.len())),
    }
}

/// `conj` or `neg`, where the metadata of a tensor says that it is still to be applied.
fn lazy_bit(pickle: &Pickle<'_>, metadata: Id) -> Option<&'static str> {
    let items = pickle.items(metadata)?;
    let set = |bit: &str| items.iter().any(|&(k, v)| pickle.str(k) == Some(bit) && *pickle.node(v) == Node::Bool(true));
    ["conj", "neg"].into_iter().find(|bit| set(bit))
}

fn storage_ref(pickle: &Pickle<'_>, id: Id) -> Result<StorageRef, String> {
    let parts = pickle.tuple(id).ok_or("a storage is not described by a tuple")?;
    let [kind, class, key, _device, count, rest @ ..] = parts else {
        return Err("a storage is described by too few values".into());
    };
    if pickle.str(*kind) != Some("storage") {
        return Err(format!("a persistent id of kind {}; only storages are read", pickle.render(*kind)));
    }
    let class = pickle.global(*class).ok_or("the type of a storage is not a name")?;
    let kind = storage_type(class).ok_or_else(|| format!("{}.{} is no known storage", class.0, class.1))?;
    let key = pickle.str(*key).map(str::to_owned).or_else(|| pickle.int(*key).map(|k| k.to_string()));
    let key = key.ok_or("the key of a storage is not a string")?;
    let count = pickle.size(*count).ok_or("the length of a storage is not a size")?;
    // Legacy: (key of the view, offset, length), or None.
    let view_offset = match rest.first().and_then(|&v| pickle.tuple(v)) {
        Some([_, offset, _]) => pickle.size(*offset).ok_or("the offset of a storage view is not a size")?,
        _ => 0,
    };
    Ok(StorageRef { key, kind, count, view_offset })
}

fn storage_type((module, name): (&str, &str)) -> Option<ElementType> {
    if matches!((module, name), ("torch.storage", "UntypedStorage" | "_UntypedStorage")) {
        return Some(ElementType::Untyped);
    }
    let dtype = name.strip_suffix("Storage").filter(|_| module == "torch")?;
    Some(match dtype {
        "Float" => ElementType::Dtype(Dtype::F32),
        "Double" => ElementType::Dtype(Dtype::F64),
        "Half" => ElementType::Dtype(Dtype::F16),
        "BFloat16" => ElementType::Dtype(Dtype::BF16),
        "Byte" => ElementType::Dtype(Dtype::U8),
        "Char" => ElementType::Dtype(Dtype::I8),
        "Short" => ElementType::Dtype(Dtype::I16),
        "Int" => ElementType::Dtype(Dtype::I32),
        "Long" => ElementType::Dtype(Dtype::I64),
        "Bool" => ElementType::Dtype(Dtype::BOOL),
        "ComplexFloat" => ElementType::Dtype(Dtype::C64),
        "ComplexDouble" => ElementType::Foreign("complex128", 16),
        "QInt8" => ElementType::Foreign("qint8", 1),
        "QUInt8" => ElementType::Foreign("quint8", 1),
        "QInt32" => ElementType::Foreign("qint32", 4),
        "QUInt4x2" => ElementType::Foreign("quint4x2", 1),
        "QUInt2x4" => ElementType::Foreign("quint2x4", 1),
        _ => return None,
    })
}

/// The type that a global of the module `torch` names.
fn dtype_of(name: &str) -> Option<ElementType> {
    let dtype = match name {
        "float64" => Dtype::F64,
        "float32" => Dtype::F32,
        "float16" => Dtype::F16,
        "bfloat16" => Dtype::BF16,
        "uint64" => Dtype::U64,
        "uint32" => Dtype::U32,
        "uint16" => Dtype::U16,
        "uint8" => Dtype::U8,
        "int64" => Dtype::I64,
        "int32" => Dtype::I32,
        "int16" => Dtype::I16,
        "int8" => Dtype::I8,
        "bool" => Dtype::BOOL,
        "complex64" => Dtype::C64,
        "float8_e4m3fn" => Dtype::F8_E4M3,
        "float8_e5m2" => Dtype::F8_E5M2,
        "float8_e4m3fnuz" => Dtype::F8_E4M3FNUZ,
        "float8_e5m2fnuz" => Dtype::F8_E5M2FNUZ,
        "float8_e8m0fnu" => Dtype::F8_E8M0,
        "float4_e2m1fn_x2" => Dtype::F4,
        "complex128" => return Some(ElementType::Foreign("complex128", 16)),
        "complex32" => return Some(ElementType::Foreign("complex32", 4)),
        _ => return None,
    };
    Some(ElementType::Dtype(dtype))
}

/// For each node, whether a tensor lies within it. Containers may hold each other, also in a circle, so this sweeps to and
/// fro until nothing changes; children mostly come before or right after their container, so a few sweeps do.
fn tensors_within(pickle: &Pickle<'_>) -> Vec<bool> {
    let nodes: Vec<&Node> = pickle.nodes().map(|(_, n)| n).collect();
    let mut has = vec![false; nodes.len()];
    let within = |has: &[bool], node: &Node| match node {
        Node::Tuple(items) | Node::List(items) | Node::Set(items) => items.iter().any(|i| has[i.0 as usize]),
        Node::Dict(items) => items.iter().any(|(_, v)| has[v.0 as usize]),
        Node::Call(call) => {
            pickle.global(call.callable).is_some_and(is_rebuild) || call_members(call).any(|i| has[i.0 as usize])
        }
        _ => false,
    };
    for sweep in 0..2 * MAX_DEPTH {
        let mut changed = false;
        for i in 0..nodes.len() {
            let i = if sweep % 2 == 0 { i } else { nodes.len() - 1 - i };
            if !has[i] && within(&has, nodes[i]) {
                has[i] = true;
                changed = true;
            }
        }
        if !changed {
            break;
        }
    }
    has
}

fn call_members(call: &Call) -> impl Iterator<Item = Id> {
    let items = call.items.iter().map(|&(_, v)| v);
    call.args.iter().copied().chain(call.list.iter().copied()).chain(items).chain(call.state)
}

/// The entry `config` of a dictionary as JSON: Microsoft's programs keep the model's configuration there, as a dict or as
/// an object whose state is one.
fn config(pickle: &Pickle<'_>, root: Id) -> Option<Value> {
    let (_, value) = pickle.items(root)?.iter().rev().find(|(key, _)| pickle.str(*key) == Some("config"))?;
    let mut left = 10_000;
    json(pickle, *value, 0, &mut left).filter(Value::is_object)
}

/// A plain value as JSON; `None` where it is anything else, nested too deep, or larger than `left` values.
fn json(pickle: &Pickle<'_>, id: Id, depth: usize, left: &mut usize) -> Option<Value> {
    *left = left.checked_sub(1)?;
    if depth > MAX_DEPTH {
        return None;
    }
    if let Some(items) = pickle.items(id) {
        let mut map = serde_json::Map::new();
        for &(key, value) in items {
            let key = pickle.str(key).map_or_else(|| pickle.render(key), str::to_owned);
            map.insert(key, json(pickle, value, depth + 1, left)?);
        }
        return Some(Value::Object(map));
    }
    match pickle.node(id) {
        Node::None => Some(Value::Null),
        Node::Bool(b) => Some((*b).into()),
        Node::Int(i) => Some((*i).into()),
        Node::Float(x) => serde_json::Number::from_f64(*x).map(Value::Number),
        Node::Str(_) => pickle.str(id).map(Into::into),
        Node::Tuple(items) | Node::List(items) => {
            items.iter().map(|&i| json(pickle, i, depth + 1, left)).collect::<Option<Vec<_>>>().map(Value::Array)
        }
        Node::Call(call) => json(pickle, call.state?, depth + 1, left),
        _ => None,
    }
}
