//! Megabytes of text a second, for `tools/bench/tokenizer.py`: `throughput MODEL_DIR PROFILE FILE THREADS REPEAT`. The
//! file's lines are encoded as one batch, with ids, offsets and all the rest; the fastest run counts.

use std::path::Path;
use std::time::Instant;

use deberta_tokenizer::{EncodeOptions, Input, Tokenizer};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, profile, file, threads, repeat] = arguments.as_slice() else {
        panic!("usage: throughput MODEL_DIR PROFILE FILE THREADS REPEAT");
    };
    let start = Instant::now();
    let profile = profile.parse().expect("slow, hf-4-fast or hf-5");
    let tokenizer = Tokenizer::from_directory(Path::new(model), Some(profile)).expect("a model directory");
    let load = start.elapsed().as_secs_f64();
    let threads = threads.parse().expect("a number of threads");
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global().expect("the first pool");
    let text = std::fs::read_to_string(file).expect("a text file");
    let inputs: Vec<Input<'_>> = text.lines().map(Input::Single).collect();
    let run = |_| {
        let start = Instant::now();
        let batch = tokenizer.encode_batch(&inputs, &EncodeOptions::default()).expect("texts");
        (start.elapsed().as_secs_f64(), batch.iter().map(|e| e.len()).sum::<usize>())
    };
    let runs: Vec<(f64, usize)> = (0..repeat.parse().expect("a number of runs")).map(run).collect();
    let (best, tokens) = runs.into_iter().min_by(|a, b| a.0.total_cmp(&b.0)).expect("a run");
    println!(
        "{{\"load_s\": {load}, \"seconds\": {best}, \"mb_per_s\": {}, \"tokens\": {tokens}}}",
        text.len() as f64 / 1e6 / best
    );
}
