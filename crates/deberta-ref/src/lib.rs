//! A readable, verified reference implementation of DeBERTa-v2 and v3.
