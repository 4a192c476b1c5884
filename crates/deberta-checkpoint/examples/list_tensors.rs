//! Lists the tensors of a checkpoint of any format: `cargo run --release --example list_tensors -- PATH`.
//! One line a tensor: name, type, shape, and a checksum of its bytes.

use deberta_checkpoint::Checkpoint;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for path in std::env::args_os().skip(1) {
        let checkpoint = Checkpoint::open(path.as_ref())?;
        for tensor in checkpoint.tensors() {
            let bytes = checkpoint.bytes(&tensor.name)?;
            println!("{}\t{}\t{:?}\t{:08x}", tensor.name, tensor.dtype, tensor.shape, crc32fast::hash(&bytes));
        }
    }
    Ok(())
}
