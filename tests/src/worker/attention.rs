//! Attention alone, by the kernel that a model would choose.

use std::error::Error;
use std::time::Instant;

use deberta_cuda::ops::{Attention, Rung, Slots, runs};
use deberta_cuda::{Array, CudaError, Device, Matrix, Memory, Ops, Precision, slots};
use deberta_ref::{Profile, TensorData};
use ndarray::ArrayView2;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};

use super::{Answer, number, path, precision, write};
use crate::speed;

/// Calls are repeated within one measurement until they take this long, so that the clock does not count.
const SHORTEST: f64 = 2e-3;

/// Answers the request `attention`.
pub(super) fn time<D: Device>(device: &D, request: &Value) -> Answer {
    let bytes = std::fs::read(path(request, "file")?)?;
    let precision = precision(request)?;
    device.trim();
    let given = Given::upload(device, precision, &SafeTensors::deserialize(&bytes)?, request)?;
    let call = given.call();
    let rung = Rung::best(&call, precision, false, device.shared_memory_limit());
    let floats = rung.workspace(&call);
    let workspace = device.allocate(4 * floats)?;
    let (rows, columns) = (call.query.rows(), call.query.columns());
    let out = device.allocate(rows * columns * precision.bytes())?;
    let ops = Ops::new(device, precision);
    let calls = |count: usize| -> Result<f64, Box<dyn Error>> {
        let begin = Instant::now();
        for _ in 0..count {
            let to = out.matrix(precision, rows, columns);
            ops.attention(&to, &call, rung, Some(&workspace.array(floats)), None)?;
        }
        device.download(&out, &mut [0])?;
        Ok(begin.elapsed().as_secs_f64() / count as f64)
    };
    calls(2)?;
    let count = (SHORTEST / calls(1)?).ceil().clamp(1.0, 1000.0) as usize;
    let seconds = (0..number(request, "repeat")?).map(|_| calls(count)).collect::<Result<Vec<f64>, _>>()?;
    let mut context = vec![0; rows * columns * precision.bytes()];
    device.download(&out, &mut context)?;
    let context = precision.decode(&context);
    let context = ArrayView2::from_shape((rows, columns), &context)?;
    write(request, "context", TensorData::new(&context.into_dyn()))?;
    Ok(json!({ "seconds": seconds, "bytes": device.taken(), "kernel": rung.name() }))
}

/// What attention is given, on the device.
struct Given<M> {
    precision: Precision,
    heads: usize,
    max_length: usize,
    query: Operand<M>,
    key: Operand<M>,
    value: Operand<M>,
    pos_key: Operand<M>,
    pos_query: Operand<M>,
    starts: List<M>,
    slots: List<M>,
    runs: List<M>,
}

impl<M: Memory> Given<M> {
    fn upload<D: Device<Memory = M>>(
        device: &D,
        precision: Precision,
        file: &SafeTensors<'_>,
        request: &Value,
    ) -> Result<Self, Box<dyn Error>> {
        let starts = int_list(file, "starts")?;
        let longest = starts.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0);
        let max_length = usize::try_from(longest)?.max(1);
        let config = speed::config(json!({
            "relative_attention": true, "pos_att_type": "c2p|p2c", "position_buckets": number(request, "buckets")?,
            "max_position_embeddings": number(request, "positions")?,
        }));
        let slots = slots(&config, &Profile::HF_5, max_length);
        let operand = |name| Operand::upload(device, precision, file, name);
        Ok(Self {
            precision,
            heads: number(request, "heads")?,
            max_length,
            query: operand("query")?,
            key: operand("key")?,
            value: operand("value")?,
            pos_key: operand("pos_key")?,
            pos_query: operand("pos_query")?,
            starts: List::upload(device, &starts)?,
            runs: List::upload(device, &runs(&slots))?,
            slots: List::upload(device, &slots)?,
        })
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
            }),
            cu_seqlens: self.starts.array(),
            max_length: self.max_length,
            heads: self.heads,
            head_size,
            scale: (3.0 * head_size as f32).sqrt(),
            mask: None,
        }
    }
}

/// A matrix of a file on the device.
struct Operand<M> {
    memory: M,
    rows: usize,
    columns: usize,
}

impl<M: Memory> Operand<M> {
    fn upload<D: Device<Memory = M>>(
        device: &D,
        precision: Precision,
        file: &SafeTensors<'_>,
        name: &str,
    ) -> Result<Self, Box<dyn Error>> {
        let tensor = file.tensor(name)?;
        let (Dtype::F32, &[rows, columns]) = (tensor.dtype(), tensor.shape()) else {
            return Err(format!("`{name}` is no matrix in f32").into());
        };
        let numbers = tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        let bytes = precision.encode(numbers);
        let memory = device.allocate(bytes.len())?;
        device.upload(&memory, &bytes)?;
        Ok(Self { memory, rows, columns })
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

fn int_list(file: &SafeTensors<'_>, name: &str) -> Result<Vec<i32>, Box<dyn Error>> {
    let tensor = file.tensor(name)?;
    if tensor.dtype() != Dtype::I64 {
        return Err(format!("`{name}` is not in i64").into());
    }
    let wide = tensor.data().chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap_or_default()));
    Ok(wide.map(i32::try_from).collect::<Result<_, _>>()?)
}
