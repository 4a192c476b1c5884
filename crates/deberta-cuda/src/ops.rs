//! One function for each kernel: it checks shapes, and knows the geometry of the launch and the order of the arguments.
//!
//! Shapes that do not agree are mistakes of the caller, and panic; what a file or a user says has been checked before.

mod activation;
mod attention;
mod conv1d;
mod embeddings;
mod gemm;
mod layer_norm;
mod pooler;
mod rows;

use crate::device::{Arg, Array, Device, Element, Launch, Matrix, Precision};
use crate::error::CudaError;
use crate::source::{File, Module};

pub use attention::{Attention, Rung, Slots, Visible, longest_run, runs};
pub use conv1d::ConvNorm;
pub use embeddings::Embed;
pub use layer_norm::{Norm, Residual};

/// The kernels in one precision on one device.
#[derive(Debug)]
pub struct Ops<'d, D> {
    /// Where they run.
    pub device: &'d D,
    /// Of every [`Matrix`].
    pub precision: Precision,
}

impl<D> Clone for Ops<'_, D> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<D> Copy for Ops<'_, D> {}

/// The threads of a block in the kernels that give a block a row (`ROW_THREADS` in `row.cuh`, and its equals).
const ROW_THREADS: u32 = 128;

impl<'d, D: Device> Ops<'d, D> {
    /// The kernels of `device` in `precision`.
    pub fn new(device: &'d D, precision: Precision) -> Self {
        Self { device, precision }
    }

    /// The floats of a row that a block keeps in shared memory: whole chunks of every thread (`row_shared` in `row.cuh`).
    fn row_floats(&self, width: usize) -> usize {
        width.next_multiple_of(ROW_THREADS as usize * 16 / self.precision.bytes())
    }

    /// Runs a kernel of `file` that gives a block each of `rows` rows. With `floats`, the block keeps so many in shared
    /// memory, and one a warp.
    fn launch_rows(
        &self,
        file: File,
        kernel: &'static str,
        rows: usize,
        floats: Option<usize>,
        arguments: &[Arg],
    ) -> Result<(), CudaError> {
        if rows == 0 {
            return Ok(());
        }
        self.device.launch(&Launch {
            module: Module { file, precision: self.precision, head_size: 0 },
            kernel,
            grid: [blocks(rows), 1, 1],
            block: [ROW_THREADS, 1, 1],
            shared_bytes: floats.map_or(0, |floats| (floats + ROW_THREADS as usize / 32) * size_of::<f32>()),
            arguments,
        })
    }
}

/// The number of blocks in the first dimension of a grid.
fn blocks(count: usize) -> u32 {
    u32::try_from(count).expect("fewer rows than the first dimension of a grid has blocks")
}

/// A size as kernels take it.
fn int(value: usize) -> Arg {
    Arg::Int(i32::try_from(value).expect("sizes are below two thousand million"))
}

fn pointer(matrix: &Matrix<'_>) -> Arg {
    Arg::Pointer(matrix.address())
}

fn pointer_or_null(matrix: Option<&Matrix<'_>>) -> Arg {
    Arg::Pointer(matrix.map_or(0, Matrix::address))
}

/// The address of an array of `len` elements.
fn array<T: Element>(name: &str, array: &Array<'_, T>, len: usize) -> Arg {
    assert_eq!(array.len(), len, "the length of {name}");
    Arg::Pointer(array.address())
}

fn array_or_null<T: Element>(name: &str, optional: Option<&Array<'_, T>>, len: usize) -> Arg {
    optional.map_or(Arg::Pointer(0), |a| array(name, a, len))
}

fn assert_shape(name: &str, matrix: &Matrix<'_>, rows: usize, columns: usize) {
    assert_eq!([matrix.rows(), matrix.columns()], [rows, columns], "the shape of {name}");
}
