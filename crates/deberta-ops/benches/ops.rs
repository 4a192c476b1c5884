//! Each operation at the sizes of the base model over 512 tokens: `cargo bench -p deberta-ops`.
//!
//! `linear` stands beside the same product asked of OpenBLAS directly, so that what it costs beyond the product shows.

use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use deberta_ops::{
    Activation, Affine, At, Hidden, LANES, LookUp, Panels, add_skewed, conv1d, exponentials, gather_c2p, gather_p2c,
    gather_rows, layer_norm, linear, masked_softmax, panels_layer_norm, residual_layer_norm,
};
use ndarray::{Array1, Array2, Array3};

/// Tokens, width, inner width and relative rows of the base model.
const TOKENS: usize = 512;
const HIDDEN: usize = 768;
const INNER: usize = 3072;
const ROWS: usize = 512;

fn matrix(rows: usize, columns: usize) -> Array2<f32> {
    Array2::from_shape_fn((rows, columns), |(r, c)| ((r * 7 + c * 13) % 101) as f32 / 101.0 - 0.5)
}

fn vector(len: usize) -> Array1<f32> {
    matrix(1, len).remove_axis(ndarray::Axis(0))
}

fn products(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("linear");
    for (name, inputs, outputs) in [("768 to 3072", HIDDEN, INNER), ("3072 to 768", INNER, HIDDEN)] {
        let (x, weight, bias) = (matrix(TOKENS, inputs), matrix(outputs, inputs), vector(outputs));
        // Elements are the terms of the product: twice their rate is the rate of floating-point operations.
        group.throughput(Throughput::Elements((TOKENS * inputs * outputs) as u64));
        group.bench_function(name, |b| b.iter(|| linear(x.view(), weight.view(), Some(bias.view()))));
        let (panels, map) = (Panels::of(x.view()), Affine { weight: weight.view(), bias: Some(bias.view()) });
        group.bench_function(format!("{name}, from panels to panels"), |b| {
            b.iter(|| {
                let [y] = panels.products_then([map], |_| ());
                y.give();
            });
        });
        #[cfg(feature = "openblas")]
        group.bench_function(format!("{name}, OpenBLAS"), |b| {
            let mut y = Array2::zeros((TOKENS, outputs));
            b.iter(|| openblas::product(&x, &weight, std::hint::black_box(&mut y)));
        });
    }
    group.finish();
}

/// OpenBLAS without anything between.
#[cfg(feature = "openblas")]
mod openblas {
    use std::ffi::c_int;

    use ndarray::Array2;

    unsafe extern "C" {
        fn cblas_sgemm(
            layout: c_int,
            transpose_a: c_int,
            transpose_b: c_int,
            m: c_int,
            n: c_int,
            k: c_int,
            alpha: f32,
            a: *const f32,
            lda: c_int,
            b: *const f32,
            ldb: c_int,
            beta: f32,
            c: *mut f32,
            ldc: c_int,
        );
    }

    const ROW_MAJOR: c_int = 101;
    const AS_IT_IS: c_int = 111;
    const TRANSPOSED: c_int = 112;

    /// y = x·Wᵀ.
    pub fn product(x: &Array2<f32>, weight: &Array2<f32>, y: &mut Array2<f32>) {
        let ((rows, inputs), outputs) = (x.dim(), weight.nrows());
        assert!(weight.ncols() == inputs && y.dim() == (rows, outputs), "shapes agree");
        assert!(x.is_standard_layout() && weight.is_standard_layout() && y.is_standard_layout(), "rows are contiguous");
        let [m, n, k] = [rows, outputs, inputs].map(|size| c_int::try_from(size).expect("a small matrix"));
        // SAFETY: the three arrays are contiguous and as large as the sizes say, as was just checked.
        unsafe {
            cblas_sgemm(
                ROW_MAJOR,
                AS_IT_IS,
                TRANSPOSED,
                m,
                n,
                k,
                1.0,
                x.as_ptr(),
                k,
                weight.as_ptr(),
                k,
                0.0,
                y.as_mut_ptr(),
                n,
            );
        }
    }
}

fn rows(criterion: &mut Criterion) {
    let (x, residual) = (matrix(TOKENS, HIDDEN), matrix(TOKENS, HIDDEN));
    let (weight, bias) = (vector(HIDDEN), vector(HIDDEN));
    let mut group = criterion.benchmark_group("rows");
    group.throughput(Throughput::Elements(x.len() as u64));
    group.bench_function("layer_norm", |b| {
        b.iter(|| layer_norm::<f32, f32>(x.view(), weight.view(), bias.view(), 1e-7));
    });
    group.bench_function("residual_layer_norm", |b| {
        b.iter(|| residual_layer_norm::<f32, f32>(x.view(), residual.view(), weight.view(), bias.view(), 1e-7));
    });
    let panels = Panels::of(residual.view());
    group.bench_function("panels_layer_norm", |b| {
        b.iter_batched(
            || Panels::of(x.view()),
            |x| panels_layer_norm(x, &panels, weight.view(), bias.view(), 1e-7),
            criterion::BatchSize::LargeInput,
        );
    });
    let (table, ids) = (matrix(8192, HIDDEN), Array1::from_shape_fn(TOKENS, |i| i * 4099 % 8192));
    group.bench_function("gather_rows", |b| b.iter(|| gather_rows(table.view(), ids.view())));
    group.finish();
}

fn activations(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("activation");
    let inner = matrix(TOKENS, INNER);
    group.throughput(Throughput::Elements(inner.len() as u64));
    for activation in [Activation::Gelu, Activation::GeluNew, Activation::Tanh] {
        let mut y = inner.clone();
        group.bench_function(activation.name(), |b| {
            b.iter(|| {
                y.assign(&inner);
                activation.apply_slice(y.as_slice_mut().expect("rows are contiguous"));
            });
        });
    }
    group.finish();
}

fn scores(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("scores of one head");
    group.throughput(Throughput::Elements((TOKENS * TOKENS) as u64));
    let (reached, columns) = (
        matrix(TOKENS, ROWS),
        Array2::from_shape_fn((TOKENS, TOKENS), |(i, j)| (i + ROWS / 2).saturating_sub(j).min(ROWS - 1)),
    );
    group.bench_function("gather_c2p", |b| b.iter(|| gather_c2p(reached.view(), columns.view())));
    group.bench_function("gather_p2c", |b| b.iter(|| gather_p2c(reached.view(), columns.view())));
    let (scores, visible) = (matrix(TOKENS, TOKENS), Array1::from_shape_fn(TOKENS, |j| j < TOKENS - 50));
    let mut probabilities = scores.clone();
    group.bench_function("masked_softmax", |b| {
        b.iter(|| {
            probabilities.assign(&scores);
            for row in probabilities.rows_mut() {
                masked_softmax(row, visible.view(), Hidden::LowestFinite);
            }
        });
    });
    group.finish();
}

fn columns_of_scores(criterion: &mut Criterion) {
    // Sixteen queries side by side, as the fused attention has them; distances run over two thirds as many rows.
    let mut group = criterion.benchmark_group("scores of sixteen queries");
    group.throughput(Throughput::Elements((TOKENS * LANES) as u64));
    let lanes = |rows: usize| matrix(rows, LANES).into_raw_vec_and_offset().0;
    let (mut scores, terms, mut space) = (lanes(TOKENS), lanes(TOKENS + LANES - 1), lanes(TOKENS + LANES));
    group.bench_function("add_skewed", |b| {
        b.iter(|| add_skewed(scores.as_chunks_mut().0, terms.as_chunks().0, space.as_chunks_mut().0));
    });
    let look_up = LookUp::new((0..TOKENS + LANES).map(|distance| distance * 2 / 3).collect());
    let at = At { place: TOKENS, row: 0, width: TOKENS };
    let terms = matrix(TOKENS, at.width).into_raw_vec_and_offset().0;
    group.bench_function("LookUp::add", |b| b.iter(|| look_up.add(scores.as_chunks_mut().0, &terms, at)));
    let mut probabilities = scores.clone();
    group.bench_function("exponentials", |b| {
        b.iter(|| {
            probabilities.copy_from_slice(&scores);
            exponentials(probabilities.as_chunks_mut().0)
        });
    });
    group.finish();
}

fn convolution(criterion: &mut Criterion) {
    let (x, bias) = (matrix(TOKENS, HIDDEN), vector(HIDDEN));
    let kernel = Array3::from_shape_fn((HIDDEN, HIDDEN, 3), |(o, c, t)| ((o + c + t) % 13) as f32 / 13.0 - 0.5);
    let mut group = criterion.benchmark_group("convolution");
    group.throughput(Throughput::Elements((TOKENS * kernel.len()) as u64));
    group.bench_function("conv1d", |b| b.iter(|| conv1d(x.view(), kernel.view(), bias.view(), 1)));
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).measurement_time(Duration::from_secs(3)).warm_up_time(Duration::from_millis(500));
    targets = products, rows, activations, scores, columns_of_scores, convolution
}
criterion_main!(benches);
