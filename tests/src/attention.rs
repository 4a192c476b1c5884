//! Attention alone, by any kernel of the ladder: what it is given, how far its context is from `f64`, and how long it takes.

use std::collections::BTreeMap;
use std::time::Instant;

use deberta_cuda::ops::{Attention, Rung, Slots, longest_run, runs};
use deberta_cuda::{Array, CudaError, Device, Matrix, Memory, Ops, Precision, slots};
use deberta_ref::{DebertaV2Config, Profile};
use ndarray::{Array2, Axis, s};

/// Calls are repeated within one measurement until they take this long, so that the clock does not count.
const SHORTEST: f64 = 2e-3;

/// What attention is given: `query`, `key` and `value` [N, H·D], `pos_key` and `pos_query` [R, H·D].
pub struct Operands {
    config: DebertaV2Config,
    /// Where each sequence begins, and the end, [B + 1].
    starts: Vec<i32>,
    matrices: BTreeMap<&'static str, Array2<f32>>,
}

/// The names of [`Operands`].
const NAMES: [&str; 5] = ["query", "key", "value", "pos_key", "pos_query"];

impl Operands {
    /// Operands for sequences that begin at `starts`, each matrix by `matrix`.
    ///
    /// # Errors
    /// What `matrix` cannot do.
    pub fn new<E>(
        config: DebertaV2Config,
        starts: Vec<i32>,
        mut matrix: impl FnMut(&'static str) -> Result<Array2<f32>, E>,
    ) -> Result<Self, E> {
        let matrices = NAMES.into_iter().map(|name| Ok((name, matrix(name)?))).collect::<Result<_, E>>()?;
        Ok(Self { config, starts, matrices })
    }

    /// Random operands of order one, as projections of layer norms are, for sequences of these lengths.
    pub fn random(config: &DebertaV2Config, lengths: &[usize], mut number: impl FnMut() -> f32) -> Self {
        let ends = lengths.iter().scan(0, |end, length| {
            *end += length;
            Some(*end)
        });
        let starts = std::iter::once(0).chain(ends).map(|start| i32::try_from(start).expect("a batch, not a corpus"));
        let (tokens, rows) = (lengths.iter().sum(), 2 * config.att_span());
        let made = Self::new(config.clone(), starts.collect(), |name| {
            let rows = if name.starts_with("pos") { rows } else { tokens };
            Ok::<_, std::convert::Infallible>(Array2::from_shape_simple_fn((rows, config.hidden_size), &mut number))
        });
        let Ok(made) = made;
        made
    }

    /// The length of the longest sequence, which is not below 1.
    fn max_length(&self) -> usize {
        self.starts.windows(2).map(|pair| (pair[1] - pair[0]) as usize).max().unwrap_or(0).max(1)
    }

    fn scale(&self) -> f64 {
        (3.0 * self.config.head_size() as f64).sqrt()
    }

    /// The context by the equation in `f64`, [N, H·D], of the operands as `precision` stores them.
    pub fn exact(&self, precision: Precision) -> Array2<f64> {
        let stored = |name: &str| {
            let matrix = &self.matrices[name];
            let numbers = precision.decode(&precision.encode(matrix.iter().copied()));
            Array2::from_shape_vec(matrix.dim(), numbers.into_iter().map(f64::from).collect()).expect("as many numbers")
        };
        let [query, key, value, pos_key, pos_query] = NAMES.map(stored);
        let (max_length, size) = (self.max_length(), self.config.head_size());
        let slots = slots(&self.config, &Profile::HF_5, max_length);
        let mut out = Array2::zeros(query.dim());
        for (pair, head) in
            self.starts.windows(2).flat_map(|pair| (0..self.config.num_attention_heads).map(move |h| (pair, h)))
        {
            let part = s![pair[0] as usize..pair[1] as usize, head * size..(head + 1) * size];
            let (q, k, columns) = (query.slice(part), key.slice(part), s![.., head * size..(head + 1) * size]);
            let mut scores = q.dot(&k.t());
            let (c2p, p2c) = (q.dot(&pos_key.slice(columns).t()), k.dot(&pos_query.slice(columns).t()));
            for ((i, j), score) in scores.indexed_iter_mut() {
                let slot = slots[i + max_length - 1 - j] as usize;
                *score = (*score + c2p[[i, slot]] + p2c[[j, slot]]) / self.scale();
            }
            for mut row in scores.axis_iter_mut(Axis(0)) {
                let largest = row.fold(f64::NEG_INFINITY, |largest, &score| largest.max(score));
                row.mapv_inplace(|score| (score - largest).exp());
                row /= row.sum();
            }
            out.slice_mut(part).assign(&scores.dot(&value.slice(part)));
        }
        out
    }
}

/// Operands on the device.
pub struct Given<M> {
    precision: Precision,
    heads: usize,
    scale: f32,
    max_length: usize,
    query: Operand<M>,
    key: Operand<M>,
    value: Operand<M>,
    pos_key: Operand<M>,
    pos_query: Operand<M>,
    starts: List<M>,
    slots: List<M>,
    runs: List<M>,
    longest_run: usize,
}

impl<M: Memory> Given<M> {
    /// Puts operands on the device, in `precision`.
    ///
    /// # Errors
    /// What the device cannot do.
    pub fn upload<D: Device<Memory = M>>(
        device: &D,
        precision: Precision,
        operands: &Operands,
    ) -> Result<Self, CudaError> {
        let max_length = operands.max_length();
        let slots = slots(&operands.config, &Profile::HF_5, max_length);
        let runs = runs(&slots);
        let operand = |name: &str| Operand::upload(device, precision, &operands.matrices[name]);
        Ok(Self {
            precision,
            heads: operands.config.num_attention_heads,
            scale: operands.scale() as f32,
            max_length,
            query: operand("query")?,
            key: operand("key")?,
            value: operand("value")?,
            pos_key: operand("pos_key")?,
            pos_query: operand("pos_query")?,
            starts: List::upload(device, &operands.starts)?,
            longest_run: longest_run(&runs),
            runs: List::upload(device, &runs)?,
            slots: List::upload(device, &slots)?,
        })
    }

    /// The kernel that a model would choose.
    pub fn best<D: Device<Memory = M>>(&self, device: &D) -> Rung {
        Rung::best(&self.call(), self.precision, false, device.shared_memory_limit())
    }

    /// The seconds of each of `repeat` calls of a kernel, and the context that it returned, [N, H·D].
    ///
    /// # Errors
    /// What the kernel or the device cannot do.
    pub fn time<D: Device<Memory = M>>(
        &self,
        device: &D,
        rung: Rung,
        repeat: usize,
    ) -> Result<(Vec<f64>, Array2<f32>), CudaError> {
        let call = self.call();
        let precision = self.precision;
        rung.check(&call, precision, false, device.shared_memory_limit())?;
        let floats = rung.workspace(&call);
        let workspace = device.allocate(4 * floats)?;
        let (rows, columns) = (call.query.rows(), call.query.columns());
        let out = device.allocate(rows * columns * precision.bytes())?;
        let ops = Ops::new(device, precision);
        let calls = |count: usize| -> Result<f64, CudaError> {
            let begin = Instant::now();
            for _ in 0..count {
                let to = out.matrix(precision, rows, columns);
                ops.attention(&to, &call, rung, Some(&workspace.array(floats)), None)?;
            }
            device.download(&out, &mut [0])?;
            Ok(begin.elapsed().as_secs_f64() / count as f64)
        };
        calls(1)?;
        let count = (SHORTEST / calls(1)?).ceil().clamp(1.0, 1000.0) as usize;
        let seconds = (0..repeat).map(|_| calls(count)).collect::<Result<Vec<f64>, _>>()?;
        let mut context = vec![0; rows * columns * precision.bytes()];
        device.download(&out, &mut context)?;
        let context = Array2::from_shape_vec((rows, columns), precision.decode(&context));
        Ok((seconds, context.expect("as many numbers as were asked for")))
    }

    fn call(&self) -> Attention<'_> {
        let precision = self.precision;
        let head_size = self.query.columns / self.heads;
        Attention {
            query: self.query.matrix(precision),
            key: self.key.matrix(precision),
            value: self.value.matrix(precision),
            positions: Some(Slots {
                keys: Some(self.pos_key.matrix(precision)),
                queries: Some(self.pos_query.matrix(precision)),
                slots: self.slots.array(),
                runs: self.runs.array(),
                longest_run: self.longest_run,
            }),
            cu_seqlens: self.starts.array(),
            max_length: self.max_length,
            heads: self.heads,
            head_size,
            scale: self.scale,
            mask: None,
        }
    }
}

/// A matrix on the device.
struct Operand<M> {
    memory: M,
    rows: usize,
    columns: usize,
}

impl<M: Memory> Operand<M> {
    fn upload<D: Device<Memory = M>>(device: &D, precision: Precision, of: &Array2<f32>) -> Result<Self, CudaError> {
        let bytes = precision.encode(of.iter().copied());
        let memory = device.allocate(bytes.len())?;
        device.upload(&memory, &bytes)?;
        Ok(Self { memory, rows: of.nrows(), columns: of.ncols() })
    }

    fn matrix(&self, precision: Precision) -> Matrix<'_> {
        self.memory.matrix(precision, self.rows, self.columns)
    }
}

/// Numbers on the device.
struct List<M> {
    memory: M,
    len: usize,
}

impl<M: Memory> List<M> {
    fn upload<D: Device<Memory = M>>(device: &D, values: &[i32]) -> Result<Self, CudaError> {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let memory = device.allocate(bytes.len())?;
        device.upload(&memory, &bytes)?;
        Ok(Self { memory, len: values.len() })
    }

    fn array(&self) -> Array<'_, i32> {
        self.memory.array(self.len)
    }
}
