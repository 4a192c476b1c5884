// The activations of Hugging Face's names (deberta-ops, activation.rs, has the table), by their place in
// `Activation::ALL`, in float. Comparisons keep NaN where fminf and fmaxf would not.

enum Activation {
    GELU, GELU_10, GELU_ACCURATE, GELU_FAST, GELU_NEW, GELU_PYTHON, GELU_PYTHON_TANH, GELU_PYTORCH_TANH, HARDSWISH, LAPLACE,
    LEAKY_RELU, LINEAR, MISH, QUICK_GELU, RELU, RELU2, RELU6, SIGMOID, SILU, SQRTSOFTPLUS, SWISH, TANH
};

__device__ inline float clip(float x, float low, float high) { return x < low ? low : x > high ? high : x; }

// x·Φ(x), without a branch: Φ(−|x|) = ½·erfc(|x|/√2) = t·P(t)·exp(−x²/2) with t = 1 / (1 + 0.21·|x|). P was fitted to that by
// weighted least squares on |x| ≤ 14, where the largest relative error is 1.6e-8; in float the result is within 9e-8 of the truth
// for |x| < 1, and nearer beyond, relative to |x|. Below zero nothing cancels.
__device__ inline float gelu(float x) {
    const float t = reciprocal_fast(1.0f + 0.21f * fabsf(x));
    float p = -0.0716562569f;
    p = p * t + 0.28358829f;
    p = p * t - 0.330252737f;
    p = p * t + 0.349400222f;
    p = p * t - 0.0939246416f;
    p = p * t + 0.124872476f;
    p = p * t + 0.0691922382f;
    p = p * t + 0.0850688517f;
    p = p * t + 0.0837115794f;
    const float below = p * t * exp2_fast(-0.72134752f * x * x);  // Φ(−|x|); the factor is log2(e) / 2
    return x * (x < 0 ? below : 1.0f - below);
}

__device__ inline float gelu_tanh(float x, float root) {
    return 0.5f * x * (1.0f + tanhf(root * (x + 0.044715f * x * x * x)));
}

__device__ inline float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// ln(1 + eˣ)
__device__ inline float softplus(float x) { return x > 20.0f ? x : log1pf(expf(x)); }

__device__ inline float activate(int activation, float x) {
    switch (activation) {
        case GELU:
        case GELU_PYTHON: return gelu(x);
        case GELU_10: return clip(gelu(x), -10.0f, 10.0f);
        case GELU_FAST: return gelu_tanh(x, 0.7978845608f);
        case GELU_ACCURATE:
        case GELU_NEW:
        case GELU_PYTHON_TANH:
        case GELU_PYTORCH_TANH: return gelu_tanh(x, 0.79788456080286536f);
        case HARDSWISH: return x * clip(x + 3.0f, 0.0f, 6.0f) / 6.0f;
        case LAPLACE: return 0.5f * (1.0f + erff((x - 0.707107f) / (0.282095f * 1.4142135623730951f)));
        case LEAKY_RELU: return x < 0 ? x * 0.01f : x;
        case LINEAR: return x;
        case MISH: return x * tanhf(softplus(x));
        case QUICK_GELU: return x * sigmoid(1.702f * x);
        case RELU: return x < 0 ? 0.0f : x;
        case RELU2: return x < 0 ? 0.0f : x * x;
        case RELU6: return clip(x, 0.0f, 6.0f);
        case SIGMOID: return sigmoid(x);
        case SILU:
        case SWISH: return x / (1.0f + expf(-x));
        case SQRTSOFTPLUS: return sqrtf(softplus(x));
        case TANH: return tanhf(x);
    }
    return x;
}
