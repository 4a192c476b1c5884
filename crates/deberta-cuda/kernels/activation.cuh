// The activations of Hugging Face's names (deberta-ops, activation.rs, has the table), by their place in
// `Activation::ALL`, in float. Comparisons keep NaN where fminf and fmaxf would not.

enum Activation {
    GELU, GELU_10, GELU_ACCURATE, GELU_FAST, GELU_NEW, GELU_PYTHON, GELU_PYTHON_TANH, GELU_PYTORCH_TANH, HARDSWISH, LAPLACE,
    LEAKY_RELU, LINEAR, MISH, QUICK_GELU, RELU, RELU2, RELU6, SIGMOID, SILU, SQRTSOFTPLUS, SWISH, TANH
};

__device__ inline float clip(float x, float low, float high) { return x < low ? low : x > high ? high : x; }

// x·Φ(x). Below zero 1 + erf cancels; erfc does not.
__device__ inline float gelu(float x) {
    const float z = x * 0.70710678118654752f;
    return 0.5f * x * (x < 0 ? erfcf(-z) : 1.0f + erff(z));
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
