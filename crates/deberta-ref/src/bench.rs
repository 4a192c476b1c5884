//! What a benchmark needs beside the model: batches of random tokens, the operations a pass must do, the rate of the
//! machine's own matrix product to hold them against, and the memory that was needed.

mod matrix_product;
mod memory;
mod operations;
mod shape;

pub use matrix_product::MatrixProduct;
pub use memory::{peak_memory, reset_peak_memory};
pub use operations::required_operations;
pub use shape::{BatchShape, read_lengths};
