//! Checkpoints: readers for every format DeBERTa was published in, and a writer of safetensors that proves its output.
