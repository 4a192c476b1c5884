//! A temporary file for tensors: the trace of a long text is larger than the memory that the computation needs.

use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;

use deberta_verify::{Keep, Tensor};
use memmap2::{Mmap, MmapOptions};

/// So much is kept in memory; small models never write a file.
const IN_MEMORY: usize = 1 << 30;

/// Keeps tensors in memory while they are few, and the rest in a file that has no name and goes with the process.
#[derive(Default)]
pub struct Scratch {
    in_memory: usize,
    file: Option<File>,
    end: u64,
    failed: bool,
}

impl Scratch {
    /// The same tensor, wherever there is room for it. Where the file cannot be written, it stays in memory.
    pub fn keep(&mut self, tensor: Tensor) -> Tensor {
        let bytes = tensor.to_bytes();
        if self.failed || self.in_memory + bytes.len() <= IN_MEMORY {
            self.in_memory += bytes.len();
            return tensor;
        }
        let moved = self.write(&bytes).ok().and_then(|map| {
            let range = 0..bytes.len();
            Tensor::kept("scratch", tensor.dtype(), tensor.shape().to_vec(), Arc::new(Mapped(map)), range).ok()
        });
        self.failed = moved.is_none();
        moved.unwrap_or_else(|| tensor.clone())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<Mmap> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(tempfile::tempfile()?),
        };
        file.write_all(bytes)?;
        let start = self.end;
        self.end += bytes.len() as u64;
        // SAFETY: nobody else can open the file, and what is written is neither written again nor cut off.
        unsafe { MmapOptions::new().offset(start).len(bytes.len()).map(&*file) }
    }
}

struct Mapped(Mmap);

impl Keep for Mapped {
    fn bytes(&self) -> &[u8] {
        &self.0
    }

    #[cfg(unix)]
    fn release(&self) {
        // SAFETY: the map is of a file and only read, so its pages are filled from the file again. That the system may refuse
        // harms nothing.
        let _ = unsafe { self.0.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::{ArrayD, IxDyn};

    #[test]
    fn what_memory_has_no_room_for_is_read_from_the_file() {
        let mut scratch = Scratch { in_memory: IN_MEMORY - 8 * 3, ..Scratch::default() };
        for (n, written) in [(3, 0), (5, 40), (7000, 40 + 56000)] {
            let array = ArrayD::from_shape_fn(IxDyn(&[n]), |i| i[0] as f64 + 0.5);
            let kept = scratch.keep(Tensor::from_f64(&array));
            kept.release();
            assert_eq!((kept.to_f64(), scratch.end), (array, written));
        }
    }
}
