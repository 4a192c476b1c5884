//! Reading NumPy's `.npy`: a magic number, the length of a header, the header, the elements.
//!
//! The header is a Python dictionary written out: `{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }`. It is taken
//! apart by hand, since nothing nests in it but the shape. Fortran order is a change of strides, other byte orders are
//! reversed when read.
//!
//! bfloat16 is no type of NumPy; `ml_dtypes`, which JAX and others use, saves its bfloat16 as two opaque bytes, `V2`. No
//! other type is saved so (f16 and the integers have names of their own), so `V2` is read as bfloat16. One opaque byte could
//! be any of several 8-bit floats, and is not read. Arrays of objects are pickles; nothing in them is run or read.
//!
//! Reference: `numpy/lib/_format_impl.py` (`_read_array_header`), versions 1, 2 and 3.

use std::borrow::Cow;

use safetensors::Dtype;

use crate::checkpoint::Contents;
use crate::error::Error;
use crate::storage::{Checksum, Kind, MappedFile, Storage};
use crate::tensor::{Other, TensorInfo};
use crate::view::View;

/// What every file begins with.
pub(crate) const MAGIC: &[u8] = b"\x93NUMPY";

/// The longest header that is read. NumPy's own reader stops at 10000 characters.
pub(crate) const MAX_HEADER: usize = 1 << 16;

/// More axes than NumPy allows.
const MAX_AXES: usize = 64;

/// What a header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// How the elements are stored, or the name of a kind that is not read.
    pub element: Result<Element, String>,
    pub fortran_order: bool,
    pub shape: Vec<usize>,
    /// Where the elements begin.
    pub data: usize,
}

/// How an element is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Element {
    pub dtype: Dtype,
    pub big_endian: bool,
}

/// Reads the header of a file, of which `bytes` is the beginning.
pub(crate) fn header(bytes: &[u8]) -> Result<Header, String> {
    let rest = bytes.strip_prefix(MAGIC).ok_or("it does not begin as an array does")?;
    let (&[major, _], rest) = rest.split_first_chunk::<2>().ok_or("it ends within its header")?;
    let (length, text) = match major {
        1 => rest.split_first_chunk::<2>().map(|(n, rest)| (usize::from(u16::from_le_bytes(*n)), rest)),
        2 | 3 => rest.split_first_chunk::<4>().map(|(n, rest)| (u32::from_le_bytes(*n) as usize, rest)),
        _ => return Err(format!("its format is version {major}; 1, 2 and 3 are known")),
    }
    .ok_or("it ends within its header")?;
    if length > MAX_HEADER {
        return Err(format!("its header takes {length} bytes"));
    }
    let text = text.get(..length).ok_or("it ends within its header")?;
    let text = std::str::from_utf8(text).map_err(|_| "its header is not text")?;
    let fields = Literal { rest: text }.dictionary()?;
    let data = bytes.len() - rest.len() + if major == 1 { 2 } else { 4 } + length;
    Ok(Header { element: fields.0, fortran_order: fields.1, shape: fields.2, data })
}

type Fields = (Result<Element, String>, bool, Vec<usize>);

/// A reader of the few Python literals that headers are made of.
struct Literal<'t> {
    rest: &'t str,
}

impl<'t> Literal<'t> {
    fn skip(&mut self, token: &str) -> bool {
        self.rest = self.rest.trim_start();
        let found = self.rest.strip_prefix(token);
        self.rest = found.unwrap_or(self.rest);
        found.is_some()
    }

    fn expect(&mut self, token: &str) -> Result<(), String> {
        if self.skip(token) { Ok(()) } else { Err(format!("its header lacks a {token}")) }
    }

    fn dictionary(mut self) -> Result<Fields, String> {
        let (mut element, mut fortran_order, mut shape) = (None, None, None);
        self.expect("{")?;
        while !self.skip("}") {
            let key = self.string()?;
            self.expect(":")?;
            match key {
                "descr" => element = Some(self.element()?),
                "fortran_order" => fortran_order = Some(self.boolean()?),
                "shape" => shape = Some(self.tuple()?),
                other => return Err(format!("its header has an entry {other}")),
            }
            if !self.skip(",") {
                self.expect("}")?;
                break;
            }
        }
        match (element, fortran_order, shape) {
            (Some(element), Some(order), Some(shape)) => Ok((element, order, shape)),
            _ => Err("its header lacks descr, fortran_order or shape".into()),
        }
    }

    fn string(&mut self) -> Result<&'t str, String> {
        self.rest = self.rest.trim_start();
        let quote = self.rest.chars().next().filter(|c| matches!(c, '\'' | '"')).ok_or("its header lacks a quote")?;
        let (text, rest) = self.rest[1..].split_once(quote).ok_or("its header lacks a closing quote")?;
        self.rest = rest;
        Ok(text)
    }

    fn boolean(&mut self) -> Result<bool, String> {
        if self.skip("True") {
            return Ok(true);
        }
        if self.skip("False") { Ok(false) } else { Err("fortran_order is neither True nor False".into()) }
    }

    fn tuple(&mut self) -> Result<Vec<usize>, String> {
        self.expect("(")?;
        let mut sizes = Vec::new();
        while !self.skip(")") {
            let digits = self.rest.len() - self.rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            let (number, rest) = self.rest.split_at(digits);
            sizes.push(number.parse().map_err(|_| "a size of its shape is no number")?);
            if sizes.len() > MAX_AXES {
                return Err(format!("its shape has more than {MAX_AXES} axes"));
            }
            // Python 2 wrote long integers so.
            self.rest = rest.strip_prefix('L').unwrap_or(rest);
            if !self.skip(",") {
                self.expect(")")?;
                break;
            }
        }
        Ok(sizes)
    }

    /// A string such as `<f4`; a list of fields is a structured type, which ends with its bracket.
    fn element(&mut self) -> Result<Result<Element, String>, String> {
        self.rest = self.rest.trim_start();
        if !self.rest.starts_with('[') {
            return Ok(element(self.string()?));
        }
        let mut depth = 0usize;
        let end = self.rest.char_indices().find_map(|(i, c)| {
            depth = match c {
                '[' => depth + 1,
                ']' => depth.saturating_sub(1),
                _ => depth,
            };
            (depth == 0).then_some(i + 1)
        });
        let end = end.ok_or("its header lacks a ]")?;
        self.rest = &self.rest[end..];
        Ok(Err("an array of records".into()))
    }
}

/// The element that `descr` names, or what it is instead.
fn element(descr: &str) -> Result<Element, String> {
    let unread = || Err(format!("an array of NumPy's type {descr}"));
    let Some(order @ ('<' | '>' | '|' | '=')) = descr.chars().next() else { return unread() };
    let dtype = match &descr[1..] {
        "f8" => Dtype::F64,
        "f4" => Dtype::F32,
        "f2" => Dtype::F16,
        "V2" => Dtype::BF16,
        "i8" => Dtype::I64,
        "i4" => Dtype::I32,
        "i2" => Dtype::I16,
        "i1" => Dtype::I8,
        "u8" => Dtype::U64,
        "u4" => Dtype::U32,
        "u2" => Dtype::U16,
        "u1" => Dtype::U8,
        "b1" => Dtype::BOOL,
        "c8" => Dtype::C64,
        "O" => return Err("an array of Python objects, which is a pickle and is not run".into()),
        _ => return unread(),
    };
    Ok(Element { dtype, big_endian: order == '>' })
}

/// Adds the array `name` to what a file or archive holds. `kind` are its elements, without the header.
pub(crate) fn add(
    contents: &mut Contents,
    (file, name): (usize, String),
    header: &Header,
    (kind, len, checksum): (Kind, u64, Option<Checksum>),
) -> Result<(), String> {
    let Element { dtype, big_endian } = match &header.element {
        Ok(element) => *element,
        Err(what) => {
            contents.others.push(Other { name, what: what.clone(), is_tensor: true });
            return Ok(());
        }
    };
    let mut sizes: Cow<'_, [usize]> = header.shape.as_slice().into();
    if header.fortran_order {
        sizes.to_mut().reverse();
    }
    let mut view = View::row_major(&sizes, 0).ok_or("its shape overflows")?;
    if header.fortran_order {
        view.dims.reverse();
    }
    let bytes = view.count().and_then(|n| n.checked_mul(dtype.bitsize() / 8));
    if bytes.map(|b| b as u64) != Some(len) {
        return Err(format!("its shape {:?} of {dtype} does not take the {len} bytes it has", header.shape));
    }
    let storage = contents.storages.len();
    contents.storages.push(Storage { file, entry: name.clone(), len, big_endian, checksum, kind });
    contents.tensors.push(TensorInfo { name, dtype, shape: header.shape.clone(), container: 0, storage, view });
    Ok(())
}

/// Reads the array of a file by itself; `name` is what it is to be called.
pub(crate) fn read(map: &MappedFile, file: usize, name: String) -> Result<Contents, Error> {
    let damaged = |problem| Error::damaged(&map.path, "NumPy array", problem);
    let mut contents = Contents::default();
    let header = header(map.bytes()).map_err(damaged)?;
    let range = header.data..map.bytes().len();
    let len = range.len() as u64;
    add(&mut contents, (file, name), &header, (Kind::Mapped(range), len, None)).map_err(damaged)?;
    Ok(contents)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(major: u8, dictionary: &str) -> Vec<u8> {
        let mut bytes = [MAGIC, &[major, 0]].concat();
        let length = dictionary.len();
        match major {
            1 => bytes.extend(u16::try_from(length).unwrap().to_le_bytes()),
            _ => bytes.extend(u32::try_from(length).unwrap().to_le_bytes()),
        }
        bytes.extend(dictionary.bytes());
        bytes
    }

    #[test]
    fn headers_of_every_version_are_read() {
        let dictionary = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }   \n";
        for major in [1, 2, 3] {
            let bytes = file(major, dictionary);
            let found = header(&bytes).unwrap();
            assert_eq!(found.element, Ok(Element { dtype: Dtype::F32, big_endian: false }));
            assert_eq!((found.fortran_order, found.shape.as_slice()), (false, &[2, 3][..]));
            assert_eq!(found.data, bytes.len());
        }
    }

    #[test]
    fn shapes_and_orders_of_any_spelling_are_read() {
        for (text, shape) in
            [("()", &[][..]), ("(7,)", &[7]), ("(7)", &[7]), ("(2L, 3L)", &[2, 3]), ("( 1 ,2 )", &[1, 2])]
        {
            let bytes = file(1, &format!("{{\"shape\": {text}, 'fortran_order': True, 'descr': '>i8'}}"));
            let found = header(&bytes).unwrap();
            assert_eq!(found.shape, shape, "{text}");
            assert!(found.fortran_order);
            assert_eq!(found.element, Ok(Element { dtype: Dtype::I64, big_endian: true }));
        }
    }

    #[test]
    fn kinds_that_are_not_read_are_named() {
        let of = |descr: &str| {
            let bytes = file(1, &format!("{{'descr': {descr}, 'fortran_order': False, 'shape': (2,), }}"));
            header(&bytes).unwrap().element.unwrap_err()
        };
        assert!(of("'|O'").contains("pickle"));
        assert!(of("'<U5'").contains("<U5"));
        assert!(of("'|V1'").contains("|V1"));
        assert!(of("[('a', '<f4'), ('b', '<f4', (2,))]").contains("records"));
    }

    #[test]
    fn what_is_no_header_is_refused_in_words() {
        let good = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }";
        for end in 0..file(1, good).len() {
            assert!(header(&file(1, good)[..end]).is_err(), "{end}");
        }
        for bad in [
            "",
            "{",
            "{'descr'}",
            "{'descr': '<f4', 'fortran_order': 1, 'shape': (2,)}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (-2,)}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999999,)}",
            "{'descr': [[[[[[, 'fortran_order': False, 'shape': (2,)}",
            "{'descr': '<f4', 'fortran_order': False}",
            "{'x': 1}",
        ] {
            assert!(header(&file(2, bad)).is_err(), "{bad}");
        }
        assert!(header(&file(9, good)).unwrap_err().contains("version 9"));
    }
}
