//! DeBERTa-v2 and v3, equation by equation, generic over `f32` and `f64`.
