//! Embeddings, activations, the convolution, rows moved, and pooling by attention.

use deberta_cuda::ops::{ConvNorm, Embed};
use deberta_cuda::{Device, Gemm, Memory, Ops, Precision};
use deberta_ops::Activation;
use deberta_testkit::oracle::Rng;
use ndarray::{Array2, Axis, s};

use crate::emulator::EmulatedDevice;
use crate::layer_norm::{Parameters, oracle as layer_norm};
use crate::support::{Checked, Held, Numbers, Out, close, everywhere, notices};

type EmulatedOps<'d> = Ops<'d, EmulatedDevice>;

fn embeddings(ops: &EmulatedOps<'_>, rng: &mut Rng) -> Checked {
    let (device, precision, rows, width) = (ops.device, ops.precision, 5, 67);
    let word = Held::random(device, precision, rng, 11, width);
    let position = Held::random(device, precision, rng, 7, width);
    let types = Held::random(device, precision, rng, 3, width);
    let (at_word, at_position, at_type) = ([10, 0, 3, 3, 7], [0, 6, 2, 1, 0], [2, 0, 1, 0, 2]);
    let (ids, position_ids, type_ids) =
        (Numbers::ints(device, at_word), Numbers::ints(device, at_position), Numbers::ints(device, at_type));
    let pick = |table: &Held, at: [i32; 5]| table.values.select(Axis(0), &at.map(|i| i as usize));
    let exists = Numbers::flags(device, [true, false, true, true, true]);
    let parameters = Parameters::random(device, rng, width);
    let out = Out::new(device, precision, rows, width);

    let embed = Embed {
        word: word.matrix(),
        ids: Some(ids.array()),
        positions: Some((position_ids.array(), position.matrix())),
        types: Some((type_ids.array(), types.matrix())),
    };
    ops.embed_layer_norm(&out.matrix(), &embed, &parameters.norm(), Some(&exists.array()))?;
    let sum = pick(&word, at_word) + pick(&position, at_position) + pick(&types, at_type);
    let mut expected = layer_norm(&sum, &parameters.gamma_values, &parameters.beta_values);
    expected.row_mut(1).fill(0.0);
    close("embed_layer_norm", precision, &out.values(), &expected, 1.0)?;

    let rows_of_tokens = Held::random(device, precision, rng, rows, width);
    let embed = Embed { word: rows_of_tokens.matrix(), ids: None, types: None, ..embed };
    ops.embed_sum(&out.matrix(), &embed)?;
    let expected = &rows_of_tokens.values + &pick(&position, at_position);
    close("embed_sum", precision, &out.values(), &expected, 1.0)
}

#[test]
fn embeddings_are_summed_and_normalized() {
    everywhere(embeddings);
    for (from, to) in [
        ("rows[] = {position_ids, type_ids}", "rows[] = {type_ids, type_ids}"),
        ("sum[e] += more[e]", "sum[e] -= more[e]"),
        ("(ids ? ids[row] : row)", "(ids ? ids[0] : row)"),
    ] {
        notices(from, to, Precision::F32, embeddings);
    }
}

/// Numbers on both sides of every threshold of every activation.
fn activations(ops: &EmulatedOps<'_>, rng: &mut Rng) -> Checked {
    let (device, precision, rows, width) = (ops.device, ops.precision, 9, 70);
    let bias_values = rng.vector(width).mapv(|v| f64::from(v as f32));
    let bias = Numbers::floats(device, bias_values.iter().copied());
    // Columns that begin nowhere at a multiple of 16 bytes; such as do, the last of which share theirs with others; and more
    // than a block takes.
    let ranges = |activation| {
        let wide = (0..1100, 1104);
        let some = [(3..70, 70), (8..70, 72), wide];
        some.into_iter().take(if activation == Activation::Gelu { 3 } else { 2 }).map(move |range| (activation, range))
    };
    for (activation, (range, width)) in Activation::ALL.into_iter().flat_map(ranges) {
        let x = Held::new(device, precision, &(rng.matrix(rows, width) * 30.0));
        let bias_values = rng.vector(width).mapv(|v| f64::from(v as f32));
        let bias = Numbers::floats(device, range.clone().map(|i| bias_values[i]));
        ops.bias_activation(&x.matrix().column_range(range.clone()), Some(&bias.array()), activation)?;
        let mut expected = x.values.clone();
        for i in range {
            let mut column = expected.column_mut(i);
            column.mapv_inplace(|v| activation.apply(v + bias_values[i]));
        }
        // The sum with the bias is rounded to f32 before a function of slope 60 (the square of `relu2`).
        close(activation.name(), precision, &x.read(), &expected, 1.0)?;
    }
    let x = Held::random(device, precision, rng, rows, 72);
    ops.bias_activation(&x.matrix(), None, Activation::Gelu)?;
    close("activation alone", precision, &x.read(), &x.values.mapv(|v| Activation::Gelu.apply(v)), 1.0)?;
    let x = Held::random(device, precision, rng, rows, width);
    ops.bias_activation(&x.matrix(), Some(&bias.array()), Activation::Linear)?;
    close("bias alone", precision, &x.read(), &(&x.values + &bias_values), 1.0)
}

#[test]
fn activations_are_those_of_the_processor() {
    everywhere(activations);
    for (from, to) in [
        ("bias ? value + bias[first + e] : value", "bias ? value + bias[0] : value"),
        ("values[e] + bias[first + e]", "values[e] + bias[first]"),
        ("0.044715f", "0.0437f"),
        ("case MISH: return x * tanhf(softplus(x));", "case MISH: return x * tanhf(expf(x));"),
        ("x * (x < 0 ? below : 1.0f - below)", "x * below"),
        ("p * t + 0.124872476f", "p * t + 0.1258f"),
    ] {
        notices(from, to, Precision::F32, activations);
    }
}

fn convolution(ops: &EmulatedOps<'_>, rng: &mut Rng) -> Checked {
    let (device, precision, groups, kernel, width) = (ops.device, ops.precision, 2, 3, 10);
    let lengths = [4, 1, 3];
    let rows: usize = lengths.iter().sum();
    let x = Held::random(device, precision, rng, rows, width);
    let residual = Held::random(device, precision, rng, rows, width);
    let weight = Held::random(device, precision, rng, width, width / groups * kernel);
    let bias_values = rng.vector(width).mapv(|v| f64::from(v as f32));
    let bias = Numbers::floats(device, bias_values.iter().copied());
    let exists_values: Vec<bool> = (0..rows).map(|i| i != 2).collect();
    let exists = Numbers::flags(device, exists_values.iter().copied());
    let parameters = Parameters::random(device, rng, width);
    let row_sequence = Numbers::ints(device, [0, 0, 0, 0, 1, 2, 2, 2]);
    let cu_seqlens = Numbers::ints(device, [0, 4, 5, 8]);
    let unfolded = Out::new(device, precision, rows, width * kernel);
    let convolved = Out::new(device, precision, rows, width);
    let out = Out::new(device, precision, rows, width);

    ops.im2col(&unfolded.matrix(), &x.matrix(), &row_sequence.array(), &cu_seqlens.array(), kernel)?;
    let (outputs, inputs) = (width / groups, width / groups * kernel);
    for g in 0..groups {
        device.gemm(&Gemm {
            precision,
            out: convolved.matrix().column_range(g * outputs..(g + 1) * outputs),
            x: unfolded.matrix().column_range(g * inputs..(g + 1) * inputs),
            weight: weight.matrix().row_range(g * outputs..(g + 1) * outputs),
            bias: None,
        })?;
    }
    let mut expected = Array2::<f64>::zeros((rows, width));
    let mut begin = 0;
    for length in lengths {
        for (n, o) in (0..length).flat_map(|n| (0..width).map(move |o| (n, o))) {
            for (c, t) in (0..width / groups).flat_map(|c| (0..kernel).map(move |t| (c, t))) {
                if (1..=length).contains(&(n + t)) {
                    let channel = o / outputs * (width / groups) + c;
                    expected[[begin + n, o]] +=
                        weight.values[[o, c * kernel + t]] * x.values[[begin + n + t - 1, channel]];
                }
            }
        }
        begin += length;
    }
    if precision != Precision::Tf32 {
        close("convolution", precision, &convolved.values(), &expected, 1.0)?;
    }

    let conv = ConvNorm {
        bias: Some(bias.array()),
        activation: Activation::Sigmoid,
        residual: residual.matrix(),
        norm: parameters.norm(),
        exists: Some(exists.array()),
    };
    ops.conv_layer_norm(&out.matrix(), &convolved.matrix(), &conv)?;
    let mut sum = convolved.values() + &bias_values;
    sum.row_mut(2).fill(0.0);
    let sum = sum.mapv(|v| Activation::Sigmoid.apply(v)) + &residual.values;
    let mut expected = layer_norm(&sum, &parameters.gamma_values, &parameters.beta_values);
    expected.row_mut(2).fill(0.0);
    close("conv_layer_norm", precision, &out.values(), &expected, 1.0)
}

#[test]
fn convolution_stays_within_its_sequence() {
    everywhere(convolution);
    for (from, to) in [
        ("neighbour >= begin && neighbour < end", "neighbour >= 0 && neighbour < end"),
        ("neighbour >= begin && neighbour < end", "neighbour >= begin && neighbour <= end"),
        ("row + tap - kernel / 2", "row + tap"),
        ("column = i / kernel, tap = i % kernel", "column = i % width, tap = i / width"),
        ("? bias[c] : 0.0f) : 0.0f;", "? bias[0] : 0.0f) : 0.0f;"),
    ] {
        notices(from, to, Precision::F32, convolution);
    }
}

fn rows(ops: &EmulatedOps<'_>, rng: &mut Rng) -> Checked {
    let (device, precision, width) = (ops.device, ops.precision, 131);
    let x = Held::random(device, precision, rng, 4, width);
    let out = Out::new(device, precision, 3, width);
    ops.gather_rows(&out.matrix(), &x.matrix(), &Numbers::ints(device, [3, -1, 0]).array())?;
    let mut expected = x.values.select(Axis(0), &[3, 0, 0]);
    expected.row_mut(1).fill(0.0);
    assert_eq!(out.values(), expected, "rows are moved as they are");

    let floats = device.allocate(4 * width * 4)?;
    ops.to_f32(&floats.array(4 * width), &x.matrix())?;
    let mut bytes = vec![0; 4 * width * 4];
    device.download(&floats, &mut bytes)?;
    let wide = Precision::F32.decode(&bytes).into_iter().map(f64::from).collect();
    assert_eq!(Array2::from_shape_vec((4, width), wide)?, x.values, "every number of a shorter type is one of f32");
    Ok(())
}

#[test]
fn rows_are_moved_and_widened() {
    everywhere(rows);
}

fn pooling(ops: &EmulatedOps<'_>, rng: &mut Rng) -> Checked {
    let (device, precision, width) = (ops.device, ops.precision, 37);
    let bounds = [0, 150, 151, 160, 165];
    // The last sequence's scores are so large that twice as much has no exponential in f32.
    let mut values = rng.matrix(165, width);
    values.slice_mut(s![160.., ..]).mapv_inplace(|v| 6.0 * v);
    let states = Held::new(device, precision, &values);
    let exists_values: Vec<bool> = (0..165).map(|i| i % 7 != 4).collect();
    let out = Out::new(device, precision, 4, width);
    ops.pool_by_attention(
        &out.matrix(),
        &states.matrix(),
        &Numbers::ints(device, bounds).array(),
        Some(&Numbers::flags(device, exists_values.iter().copied()).array()),
        152,
    )?;
    let mut expected = Array2::zeros((4, width));
    for b in 0..4 {
        let range = bounds[b] as usize..bounds[b + 1] as usize;
        let rows = states.values.slice(s![range.clone(), ..]);
        let scores = rows.dot(&rows.row(0)) / (width as f64).sqrt();
        assert_eq!(b == 3, scores[0] > f64::from(f32::MAX).ln() / 2.0, "{}", scores[0]);
        let mut weights = scores.mapv(f64::exp);
        for (weight, i) in weights.iter_mut().zip(range) {
            *weight *= f64::from(u8::from(exists_values[i]));
        }
        expected.row_mut(b).assign(&(weights.dot(&rows) / weights.sum()));
    }
    close("pooled", precision, &out.values(), &expected, 1.0)
}

#[test]
fn pooling_by_attention_weighs_by_similarity() {
    everywhere(pooling);
    for (from, to) in [
        ("score / sqrtf(float(width))", "score / float(width)"),
        ("exists && !exists[begin + i]", "exists && !exists[i]"),
        (
            "partial[threadIdx.x / WARP] = x;\n    __syncthreads();\n    float sum",
            "partial[threadIdx.x / WARP] = x;\n    float sum",
        ),
        ("weights[i] - largest", "weights[i] + largest"),
        ("pooled / sum", "pooled / largest"),
    ] {
        notices(from, to, Precision::F32, pooling);
    }
}
