//! Every rung of the attention ladder against the equation, in `f64`.

use deberta_cuda::ops::{Attention, Rung, Slots, Visible, longest_run, runs};
use deberta_cuda::{CudaError, Device, Memory, Ops, Precision};
use deberta_testkit::oracle::Rng;
use ndarray::{Array2, Array3, s};

use crate::emulator::EmulatedDevice;
use crate::support::{Checked, Held, Numbers, Out, close, notices};

/// How distances become rows of the position tables.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Table {
    /// Every distance below 40 its own row; the last beyond.
    Clamped,
    /// As in the released models: exact near zero, coarser with distance, one row beyond.
    Logarithmic,
    /// One row from distance 2 on, so that a tile's first distance alone may have another.
    Short,
    /// Any row for any distance: what no kernel may rely upon not to happen.
    Arbitrary,
}

#[derive(Clone, Copy, Debug)]
struct Case {
    heads: usize,
    head_size: usize,
    lengths: &'static [usize],
    c2p: bool,
    p2c: bool,
    table: Table,
    /// Flags for every query and key; `Some(uniform)` says what a blind query becomes.
    masked: Option<bool>,
    /// Half of the queries score one key of each head, the first of the first, the second of the second, in hundreds, so that
    /// nothing but the right maximum keeps exponentials finite.
    loud: bool,
}

const PLAIN_CASE: Case = Case {
    heads: 2,
    head_size: 16,
    lengths: &[70, 1, 33],
    c2p: true,
    p2c: true,
    table: Table::Clamped,
    masked: None,
    loud: false,
};

/// Lengths below, at and above a tile; each set of terms; each table; a head size that is no multiple of anything.
const CASES: [Case; 8] = [
    PLAIN_CASE,
    Case { heads: 1, head_size: 64, lengths: &[130], table: Table::Logarithmic, ..PLAIN_CASE },
    Case { lengths: &[65, 2], c2p: false, ..PLAIN_CASE },
    Case { lengths: &[64, 3], p2c: false, head_size: 24, ..PLAIN_CASE },
    Case { lengths: &[40], c2p: false, p2c: false, ..PLAIN_CASE },
    Case { lengths: &[67, 20], table: Table::Arbitrary, ..PLAIN_CASE },
    Case { lengths: &[66], head_size: 7, heads: 3, ..PLAIN_CASE },
    Case { lengths: &[70], loud: true, ..PLAIN_CASE },
];

/// Masks, which the first two rungs alone take.
const MASKED: [Case; 2] = [
    Case { lengths: &[37, 5], masked: Some(true), ..PLAIN_CASE },
    Case { lengths: &[37, 5], masked: Some(false), head_size: 7, ..PLAIN_CASE },
];

const SPAN: usize = 40;

impl Case {
    fn max_length(&self) -> usize {
        self.lengths.iter().copied().max().unwrap() + 3
    }

    /// The row of every distance from −(`max_length` − 1) on.
    fn slots(&self, rng: &mut Rng) -> Vec<i32> {
        let reach = self.max_length() as i64 - 1;
        let span = SPAN as i64;
        let row = |distance: i64, rng: &mut Rng| match self.table {
            Table::Clamped => (distance + span).clamp(0, 2 * span - 1),
            Table::Short => span + distance.clamp(-2, 2),
            Table::Logarithmic => {
                let near = span / 4;
                let bucket = if distance.abs() <= near {
                    distance
                } else {
                    let far = (distance.abs() as f64 / near as f64).ln() / (100.0 / near as f64).ln();
                    distance.signum() * (near + (far * (span - near) as f64).ceil() as i64)
                };
                (bucket + span).clamp(0, 2 * span - 1)
            }
            Table::Arbitrary => rng.below(2 * SPAN) as i64,
        };
        (-reach..=reach).map(|distance| row(distance, rng) as i32).collect()
    }
}

/// The operands as they are on the device, and the numbers they stand for.
struct Operands {
    qkv: Held,
    pos_key: Held,
    pos_query: Held,
    slots: Vec<i32>,
    visible: Vec<bool>,
    scale: f32,
}

impl Operands {
    fn new(ops: &Ops<'_, EmulatedDevice>, rng: &mut Rng, case: &Case) -> Self {
        let (rows, width) = (case.lengths.iter().sum(), case.heads * case.head_size);
        // Scores of several units, so that a row is neither uniform nor a single key.
        let mut qkv = rng.matrix(rows, 3 * width) * 2.0;
        if case.loud {
            for head in 0..case.heads {
                let columns = width + head * case.head_size..width + (head + 1) * case.head_size;
                qkv.slice_mut(s![head, columns]).mapv_inplace(|k| k * 16.0);
            }
            let loud = (0..rows).filter(|row| row % 16 < 8);
            loud.for_each(|row| qkv.slice_mut(s![row, ..width]).mapv_inplace(|q| q * 16.0));
        }
        let table = |rng: &mut Rng| Held::new(ops.device, ops.precision, &(rng.matrix(2 * SPAN, width) * 2.0));
        let (pos_key, pos_query) = (table(rng), table(rng));
        let terms = 1 + usize::from(case.c2p) + usize::from(case.p2c);
        Self {
            qkv: Held::new(ops.device, ops.precision, &qkv),
            pos_key,
            pos_query,
            slots: case.slots(rng),
            visible: (case.lengths.iter().filter(|_| case.masked.is_some()))
                .flat_map(|&length| (0..length * length).map(move |at| at / length))
                // Query 4 sees nothing.
                .map(|i| i != 4 && rng.below(3) > 0)
                .collect(),
            scale: ((case.head_size * terms) as f32).sqrt(),
        }
    }

    /// out [N, H·D], the probabilities [B·H, max, max], and how far rounding of operands may take the output.
    fn oracle(&self, case: &Case, precision: Precision) -> (Array2<f64>, Array3<f64>, f64) {
        let (heads, size, max) = (case.heads, case.head_size, case.max_length());
        let width = heads * size;
        let mut out = Array2::zeros((self.qkv.values.nrows(), width));
        let mut probabilities = Array3::zeros((case.lengths.len() * heads, max, max));
        let (mut begin, mut mask_begin, mut worst) = (0, 0, 0.0f64);
        for (b, &length) in case.lengths.iter().enumerate() {
            for h in 0..heads {
                let part = |which: usize| {
                    let columns = which * width + h * size..which * width + (h + 1) * size;
                    self.qkv.values.slice(s![begin..begin + length, columns])
                };
                let (q, k, v) = (part(0), part(1), part(2));
                let of_head = |table: &Held| table.values.slice(s![.., h * size..(h + 1) * size]).to_owned();
                let (pos_key, pos_query) = (of_head(&self.pos_key), of_head(&self.pos_query));
                for i in 0..length {
                    let visible = |j: usize| case.masked.is_none() || self.visible[mask_begin + i * length + j];
                    let mut weights = vec![0.0; length];
                    for j in (0..length).filter(|&j| visible(j)) {
                        let slot = self.slots[i + max - 1 - j] as usize;
                        let (mut score, mut size) = (q.row(i).dot(&k.row(j)), 0.0);
                        let absolute = |a: ndarray::ArrayView1<'_, f64>, b: ndarray::ArrayView1<'_, f64>| {
                            a.iter().zip(b).map(|(a, b)| (a * b).abs()).sum::<f64>()
                        };
                        size += absolute(q.row(i), k.row(j));
                        if case.c2p {
                            score += q.row(i).dot(&pos_key.row(slot));
                            size += absolute(q.row(i), pos_key.row(slot));
                        }
                        if case.p2c {
                            score += k.row(j).dot(&pos_query.row(slot));
                            size += absolute(k.row(j), pos_query.row(slot));
                        }
                        worst = worst.max(size / f64::from(self.scale));
                        weights[j] = score / f64::from(self.scale);
                    }
                    let largest = (0..length).filter(|&j| visible(j)).fold(f64::NEG_INFINITY, |m, j| m.max(weights[j]));
                    (0..length).filter(|&j| visible(j)).for_each(|j| weights[j] = (weights[j] - largest).exp());
                    if !(0..length).any(visible) {
                        weights.fill(f64::from(u8::from(case.masked == Some(true))));
                    }
                    let sum: f64 = weights.iter().sum();
                    for (j, weight) in weights.iter().enumerate().filter(|_| sum > 0.0) {
                        let p = weight / sum;
                        probabilities[[b * heads + h, i, j]] = p;
                        for d in 0..size {
                            out[[begin + i, h * size + d]] += p * v[[j, d]];
                        }
                    }
                }
            }
            begin += length;
            mask_begin += length * length;
        }
        (out, probabilities, slack(precision, worst))
    }
}

/// What rounding adds beyond that of the result, as a multiple of `tolerance`'s scale.
///
/// Values are below 2, so an error δ of every probability, relative, moves the output by at most 2δ. In `f16` and `bf16`
/// a probability is rounded once before it meets a value: δ is the unit that `tolerance` knows. TF32 rounds both factors of every product to 11
/// bits: scores of absolute products Σ|a·b|/s ≤ `worst` move by 2·2⁻¹¹·`worst`, both the row's and its sum's.
fn slack(precision: Precision, worst: f64) -> f64 {
    match precision {
        Precision::F32 | Precision::F16 | Precision::Bf16 => 2.0,
        Precision::Tf32 => 2.0 * (2.0 * 2.0 * 2f64.powi(-11) * worst + 2.0 * 2f64.powi(-11)) / 2e-5,
    }
}

fn check(ops: &Ops<'_, EmulatedDevice>, rng: &mut Rng, rung: Rung, case: &Case) -> Checked {
    let operands = Operands::new(ops, rng, case);
    let (device, precision) = (ops.device, ops.precision);
    let (rows, width) = (operands.qkv.values.nrows(), case.heads * case.head_size);
    let bounds = case.lengths.iter().scan(0, |end, &l| {
        *end += l as i32;
        Some(*end)
    });
    let cu_seqlens = Numbers::ints(device, std::iter::once(0).chain(bounds));
    let slots = Numbers::ints(device, operands.slots.iter().copied());
    let runs = runs(&operands.slots);
    let longest_run = longest_run(&runs);
    let runs = Numbers::ints(device, runs);
    let visible = Numbers::flags(device, operands.visible.iter().copied());
    let starts = Numbers::longs(
        device,
        case.lengths.iter().scan(0, |end, &l| {
            let begin = *end;
            *end += (l * l) as i64;
            Some(begin)
        }),
    );
    let qkv = operands.qkv.matrix();
    let attention = Attention {
        query: qkv.column_range(0..width),
        key: qkv.column_range(width..2 * width),
        value: qkv.column_range(2 * width..3 * width),
        positions: (case.c2p || case.p2c).then(|| Slots {
            keys: case.c2p.then(|| operands.pos_key.matrix()),
            queries: case.p2c.then(|| operands.pos_query.matrix()),
            slots: slots.array(),
            runs: runs.array(),
            longest_run,
        }),
        cu_seqlens: cu_seqlens.array(),
        max_length: case.max_length(),
        heads: case.heads,
        head_size: case.head_size,
        scale: operands.scale,
        mask: case.masked.map(|uniform| Visible { visible: visible.array(), starts: starts.array(), uniform }),
    };
    let out = Out::new(device, precision, rows, width);
    let floats = rung.workspace(&attention);
    let workspace = device.allocate(4 * floats)?;
    let max = case.max_length();
    let kept = (rung == Rung::Plain).then(|| Out::new(device, precision, case.lengths.len() * case.heads * max, max));
    ops.attention(
        &out.matrix(),
        &attention,
        rung,
        Some(&workspace.array(floats)),
        kept.as_ref().map(Out::matrix).as_ref(),
    )?;
    // The first two rungs multiply in f32 whatever the precision.
    let exact = matches!(rung, Rung::Plain | Rung::Tiled);
    let (expected, probabilities, slack) = operands.oracle(case, if exact { Precision::F32 } else { precision });
    close("context", precision, &out.values(), &expected, slack)?;
    if let Some(kept) = kept {
        let (mut found, shape) = (kept.values(), (case.lengths.len() * case.heads * max, max));
        // Rows of queries that are not there are not written.
        for (row, mut values) in found.rows_mut().into_iter().enumerate() {
            if row % max >= case.lengths[row / max / case.heads] {
                values.fill(0.0);
            }
        }
        close("probabilities", precision, &found, &probabilities.into_shape_with_order(shape)?, 1.0)?;
    }
    Ok(())
}

/// Runs a rung over cases in a precision, each in another order of threads.
fn climb(rung: Rung, cases: &[Case], precision: Precision) {
    for (seed, case) in cases.iter().enumerate() {
        let device = EmulatedDevice::new(seed as u64);
        let outcome = check(&Ops::new(&device, precision), &mut Rng::new(seed as u64 + 5), rung, case);
        if let Err(problem) = outcome {
            panic!("{}, {}, order {seed}, {case:?}: {problem}", rung.name(), precision.name());
        }
    }
}

/// The first two rungs differ between precisions in what they load and store alone.
fn climb_in_f32(rung: Rung) {
    climb(rung, &CASES, Precision::F32);
    climb(rung, &MASKED, Precision::F32);
    climb(rung, &[PLAIN_CASE, MASKED[0]], Precision::F16);
    climb(rung, &[PLAIN_CASE, MASKED[0]], Precision::Bf16);
}

#[test]
fn plain_is_the_equation() {
    climb_in_f32(Rung::Plain);
}

#[test]
fn tiled_is_the_equation() {
    climb_in_f32(Rung::Tiled);
}

/// For the tensor cores: sequences of many tiles, tiles of one slot, each set of terms, head sizes that need padding.
const TILES: [Case; 7] = [
    Case { heads: 1, head_size: 64, lengths: &[210, 1, 65], table: Table::Logarithmic, ..PLAIN_CASE },
    Case { lengths: &[200], c2p: false, ..PLAIN_CASE },
    Case { lengths: &[129, 2], p2c: false, head_size: 24, ..PLAIN_CASE },
    Case { lengths: &[70], c2p: false, p2c: false, ..PLAIN_CASE },
    Case { lengths: &[130, 64], table: Table::Arbitrary, ..PLAIN_CASE },
    Case { lengths: &[130], table: Table::Short, ..PLAIN_CASE },
    Case { lengths: &[130], loud: true, ..PLAIN_CASE },
];

fn climb_on_tensor_cores(rung: Rung) {
    climb(rung, &TILES, Precision::Bf16);
    climb(rung, &TILES[..3], Precision::Tf32);
    climb(rung, &TILES[..2], Precision::F16);
    climb(rung, &[Case { lengths: &[66], head_size: 128, heads: 1, ..PLAIN_CASE }], Precision::F16);
}

#[test]
fn mma_is_the_equation() {
    climb_on_tensor_cores(Rung::Mma);
}

#[test]
fn window_is_the_equation() {
    climb_on_tensor_cores(Rung::Window);
}

#[test]
fn slots_is_the_equation() {
    climb_on_tensor_cores(Rung::Slots);
}

#[test]
fn mistakes_on_tensor_cores_are_noticed() {
    let short = Case { lengths: &[3], ..PLAIN_CASE };
    // Long enough for a block to meet tiles of two single slots, and tiles of many between them.
    let both = Case { heads: 1, lengths: &[260], ..PLAIN_CASE };
    for (rung, case, from, to) in [
        // Barriers and waits.
        (
            Rung::Mma,
            both,
            "        copy_async_wait<1>();\n        __syncthreads();\n        float score",
            "        __syncthreads();\n        float score",
        ),
        (
            Rung::Mma,
            both,
            "multiply_keys(score, rows, shared.key);\n        __syncthreads();",
            "multiply_keys(score, rows, shared.key);",
        ),
        (
            Rung::Mma,
            both,
            "        copy_async_wait<1>();\n        __syncthreads();\n        multiply_values",
            "        copy_async_wait<1>();\n        multiply_values",
        ),
        (
            Rung::Mma,
            both,
            "multiply_values(rows, score, shared.value);\n        __syncthreads();",
            "multiply_values(rows, score, shared.value);",
        ),
        (Rung::Window, both, "    __syncwarp();\n    const float* own", "    const float* own"),
        (Rung::Window, both, "    __syncwarp();\n}", "}"),
        (Rung::Slots, both, "        }\n        __syncthreads();\n        // 2.", "        }\n        // 2."),
        // Indices.
        (Rung::Mma, short, "8 * n + 2 * t + e % 2 >= keys_left", "8 * n + 2 * t + e % 2 > keys_left"),
        (Rung::Mma, both, "p2c[(i64(begin + j)", "p2c[(i64(begin + i)"),
        (Rung::Window, both, "g - 2 * t + TILE]", "g - 2 * t + TILE - 1]"),
        (Rung::Window, both, "shared.pos_query, base - 16 - row)", "shared.pos_query, base - row)"),
        (
            Rung::Window,
            both,
            "copy_window<TILE>(\n                shared, position_keys, position_queries, slots, base - WINDOW",
            "copy_window<TILE>(\n                shared, position_keys, position_queries, slots, base - TILE",
        ),
        (Rung::Slots, both, "if (next_windowed && windowed) {", "if (next_windowed) {"),
        (Rung::Slots, both, "position.at[k][1], position.at[k][1]}", "position.at[k][0], position.at[k][1]}"),
        (Rung::Slots, both, "slot >= 0 ? of_slot[half] : 0", "of_slot[half]"),
        (Rung::Slots, both, "first_query - min(first_key + TILE - 1, length - 1)", "first_query - first_key"),
        (Rung::Slots, both, "slot != scored", "scored < 0"),
        // Scales.
        (Rung::Mma, both, "LOG2_E / scale", "LOG2_E"),
        (Rung::Mma, both, "rows.context[n][e] *= shrink[e / 2];", ""),
        (Rung::Mma, both, "rows.sum[half] * shrink[half] + ", "rows.sum[half] + "),
        (Rung::Mma, both, "1.0f / row_sum(rows.sum[half])", "1.0f / rows.sum[half]"),
    ] {
        notices(from, to, Precision::F16, |ops, rng| check(ops, rng, rung, &case));
    }
}

#[test]
fn mistakes_in_the_first_rungs_are_noticed() {
    let masked = Case { heads: 1, ..MASKED[0] };
    for (rung, case, from, to) in [
        (Rung::Plain, PLAIN_CASE, "slots[i - j + max_length - 1]", "slots[j - i + max_length - 1]"),
        (Rung::Plain, PLAIN_CASE, "slots[i - j + max_length - 1]", "slots[i - j + max_length]"),
        (Rung::Plain, PLAIN_CASE, "score += product(k, pos_query", "score += product(q, pos_query"),
        (Rung::Plain, PLAIN_CASE, "score / scale;", "score / (scale * scale);"),
        (
            Rung::Plain,
            PLAIN_CASE,
            "partial[threadIdx.x / WARP] = x;\n    __syncthreads();\n    float sum",
            "partial[threadIdx.x / WARP] = x;\n    float sum",
        ),
        (Rung::Plain, masked, "blind ? float(uniform)", "blind ? 0.0f"),
        (
            Rung::Tiled,
            PLAIN_CASE,
            "        __syncthreads();\n        load_tile(shared.key",
            "        load_tile(shared.key",
        ),
        (Rung::Tiled, PLAIN_CASE, "value_stride);\n        __syncthreads();", "value_stride);"),
        (Rung::Tiled, PLAIN_CASE, "        __syncwarp();\n", ""),
        (Rung::Tiled, PLAIN_CASE, "if (i >= length || j >= length)", "if (i >= length)"),
        (Rung::Tiled, PLAIN_CASE, "context[a][group][e] *= shrink;", "context[a][group][e] *= 1;"),
        (Rung::Tiled, PLAIN_CASE, "sum[a] * shrink + row_sum(added)", "sum[a] + row_sum(added)"),
        (Rung::Tiled, PLAIN_CASE, "p2c[(i64(begin + j)", "p2c[(i64(begin + i)"),
        (Rung::Tiled, PLAIN_CASE, "score[a][c] /= scale;", ""),
        (Rung::Tiled, masked, "i64(i) * length + j]", "i64(j) * length + i]"),
        (Rung::Tiled, masked, "for (int j = 0; uniform &&", "for (int j = 0; !uniform &&"),
    ] {
        notices(from, to, Precision::F32, |ops, rng| check(ops, rng, rung, &case));
    }
}

#[test]
fn a_rung_refuses_what_it_does_not_do() {
    let device = EmulatedDevice::new(0);
    let ops = Ops::new(&device, Precision::F32);
    let wide = Case { lengths: &[2], heads: 1, head_size: 1000, ..PLAIN_CASE };
    let problem = check(&ops, &mut Rng::new(1), Rung::Tiled, &wide).unwrap_err();
    let problem = problem.downcast::<CudaError>().unwrap();
    assert!(problem.to_string().contains("needs 523264 bytes of shared memory"), "{problem}");
}
