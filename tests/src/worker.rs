//! Answers the requests of `tools/bench_gpu`, so that it can time this implementation beside others on one GPU: one JSON
//! object a line in, one a line out. Every time is that of the host's clock from the first launch to the end of the last
//! kernel; nothing is copied in between.
//!
//! ```text
//! {"do": "product", "precision": P, "side": N}          → {"rate": operations a second of one large product}
//! {"do": "load", "model": DIR, "precision": P, "replay": BOOL}
//!                                                       → {"loaded": true}; with `replay`, passes are recorded once
//! {"do": "run", "file": INPUTS, "repeat": N}            → {"seconds": [one a pass], "bytes": taken on the GPU}
//! {"do": "save", "file": INPUTS, "to": FILE}            → {"saved": true}: last_hidden_state
//! {"do": "attention", "file": OPERANDS, "to": FILE, "precision": P, "heads": H, "buckets": …, "positions": …, "repeat": N, "rung": …}
//!                                                       → {"seconds": [one a call], "bytes": taken on the GPU, "kernel": its rung}
//! ```
//!
//! An answer may be `{"error": sentence}` as well. The operands of attention are `query`, `key` and `value` [N, H·D], `pos_key` and
//! `pos_query` [R, H·D], and `starts` \[B + 1\] in i64; `context` [N, H·D] goes to FILE. Without `rung` it is the kernel that a model would choose.

use std::collections::HashMap;
use std::error::Error;
use std::io::{BufRead, Write};
use std::path::Path;

use deberta_cuda::ops::Rung;
use deberta_cuda::{Device, Model, Precision};
use deberta_ref::{Head, Inputs, Keep, ModelDirectory, NamedTensors, Profile, TensorData, Trace, read_inputs};
use ndarray::Array2;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};

use crate::attention::{Given, Operands};
use crate::speed;

type Answer = Result<Value, Box<dyn Error>>;

/// Answers every line of `requests` on `answers`.
///
/// # Errors
/// What reading and writing comes to; a request that fails is answered.
pub fn serve<D: Device>(device: &D, requests: impl BufRead, mut answers: impl Write) -> std::io::Result<()> {
    let mut model = None;
    for line in requests.lines() {
        let request = serde_json::from_str(&line?);
        let answer = request.map_err(Into::into).and_then(|request| answer(device, &mut model, &request));
        writeln!(answers, "{}", answer.unwrap_or_else(|error| json!({ "error": error.to_string() })))?;
        answers.flush()?;
    }
    Ok(())
}

fn answer<'d, D: Device>(device: &'d D, model: &mut Option<Model<&'d D>>, request: &Value) -> Answer {
    fn loaded<M>(model: &Option<M>) -> Result<&M, &'static str> {
        model.as_ref().ok_or("`load` first")
    }
    match request["do"].as_str() {
        Some("product") => {
            let rate = speed::product_rate(device, precision(request)?, number(request, "side")?)?;
            Ok(json!({ "rate": rate }))
        }
        Some("load") => {
            *model = None;
            device.trim();
            let directory = ModelDirectory::open(path(request, "model")?)?;
            let mut loaded = directory.load_on(device, precision(request)?, Head::Base, Profile::HF_5)?;
            loaded.replay_shapes(usize::from(request["replay"].as_bool().unwrap_or(false)));
            *model = Some(loaded);
            Ok(json!({ "loaded": true }))
        }
        Some("run") => {
            let (inputs, _): (Inputs<f32>, _) = read_inputs(path(request, "file")?)?;
            device.trim();
            let passes = loaded(model)?.time(&inputs, number(request, "repeat")?)?;
            let seconds: Vec<f64> = passes.iter().map(std::time::Duration::as_secs_f64).collect();
            Ok(json!({ "seconds": seconds, "bytes": device.taken() }))
        }
        Some("save") => {
            let (inputs, _): (Inputs<f32>, _) = read_inputs(path(request, "file")?)?;
            let outputs = loaded(model)?.forward(&inputs, Keep::default(), &mut Trace::off())?;
            let states = TensorData::new(&outputs.last_hidden_state.view().into_dyn());
            write(request, "last_hidden_state", states)?;
            Ok(json!({ "saved": true }))
        }
        Some("attention") => attention(device, request),
        Some(other) => Err(format!("unknown request `{other}`").into()),
        None => Err("no `do`".into()),
    }
}

/// Attention alone, by the kernel that is asked for or else the one that a model would choose.
fn attention<D: Device>(device: &D, request: &Value) -> Answer {
    let bytes = std::fs::read(path(request, "file")?)?;
    let file = SafeTensors::deserialize(&bytes)?;
    let heads = number(request, "heads")?;
    let query = matrix(&file, "query")?;
    let config = speed::config(json!({
        "hidden_size": query.ncols(), "num_attention_heads": heads, "relative_attention": true, "pos_att_type": "c2p|p2c",
        "position_buckets": number(request, "buckets")?, "max_position_embeddings": number(request, "positions")?,
    }));
    device.trim();
    let operands = Operands::new(config, int_list(&file, "starts")?, |name| matrix(&file, name))?;
    let given = Given::upload(device, precision(request)?, &operands)?;
    let rung = match request["rung"].as_str() {
        Some(name) => Rung::from_name(name).ok_or_else(|| format!("`{name}` is no kernel of attention"))?,
        None => given.best(device),
    };
    let (seconds, context) = given.time(device, rung, number(request, "repeat")?)?;
    write(request, "context", TensorData::new(&context.view().into_dyn()))?;
    Ok(json!({ "seconds": seconds, "bytes": device.taken(), "kernel": rung.name() }))
}

fn matrix(file: &SafeTensors<'_>, name: &str) -> Result<Array2<f32>, Box<dyn Error>> {
    let tensor = file.tensor(name)?;
    let (Dtype::F32, &[rows, columns]) = (tensor.dtype(), tensor.shape()) else {
        return Err(format!("`{name}` is no matrix in f32").into());
    };
    let numbers = tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    Ok(Array2::from_shape_vec((rows, columns), numbers.collect())?)
}

fn int_list(file: &SafeTensors<'_>, name: &str) -> Result<Vec<i32>, Box<dyn Error>> {
    let tensor = file.tensor(name)?;
    if tensor.dtype() != Dtype::I64 {
        return Err(format!("`{name}` is not in i64").into());
    }
    let wide = tensor.data().chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap_or_default()));
    Ok(wide.map(i32::try_from).collect::<Result<_, _>>()?)
}

fn write(request: &Value, name: &str, tensor: TensorData) -> Result<(), Box<dyn Error>> {
    let tensors = NamedTensors { entries: vec![(name.to_owned(), tensor)] };
    Ok(tensors.write(path(request, "to")?, HashMap::new())?)
}

fn precision(request: &Value) -> Result<Precision, String> {
    let name = request["precision"].as_str().unwrap_or_default();
    let known = Precision::ALL.into_iter().find(|precision| precision.name() == name);
    known.ok_or_else(|| format!("`{name}` is no precision of a GPU"))
}

fn path<'r>(request: &'r Value, key: &str) -> Result<&'r Path, String> {
    request[key].as_str().map(Path::new).ok_or_else(|| format!("no `{key}`"))
}

fn number(request: &Value, key: &str) -> Result<usize, String> {
    let number = request[key].as_u64().and_then(|n| usize::try_from(n).ok());
    number.ok_or_else(|| format!("no `{key}`"))
}
