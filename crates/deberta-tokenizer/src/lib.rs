//! The tokenizer of DeBERTa-v2 and v3, identical to each reference implementation.
