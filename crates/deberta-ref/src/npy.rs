//! numpy's `.npy` files, version 1.0: a magic, a header that reads as a Python dictionary, the elements.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use ndarray::ArrayViewD;

use crate::error::Error;
use crate::tensor_file::write_beside;

/// Writes an array in row-major order, by way of a file beside it that is renamed once it is complete.
///
/// # Errors
/// A folder that cannot be written to.
pub fn write_npy(path: &Path, array: &ArrayViewD<'_, f32>) -> Result<(), Error> {
    let shape: String = array.shape().iter().map(|n| format!("{n}, ")).collect();
    let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({shape}), }}");
    // Magic, version, length and header together are a multiple of 64 bytes, and the header ends in a line feed.
    let before = 10;
    let filled = (before + header.len() + 1).next_multiple_of(64) - before - 1;
    header.extend(std::iter::repeat_n(' ', filled - header.len()));
    header.push('\n');
    write_beside(path, |beside| {
        let mut out = BufWriter::new(File::create(beside).map_err(Error::io(path))?);
        let write = |out: &mut dyn Write| -> std::io::Result<()> {
            out.write_all(b"\x93NUMPY\x01\x00")?;
            out.write_all(&(header.len() as u16).to_le_bytes())?;
            out.write_all(header.as_bytes())?;
            array.iter().try_for_each(|v| out.write_all(&v.to_le_bytes()))?;
            out.flush()
        };
        write(&mut out).map_err(Error::io(path))
    })
}
