//! The program `deberta-convert`: arguments in, exit code out. The work is done by `deberta-checkpoint`.

fn main() {}
