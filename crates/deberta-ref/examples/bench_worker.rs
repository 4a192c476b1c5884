//! Answers the requests of tools/bench/peers/compare.py, so that it can time this implementation beside others: one JSON
//! object a line in, one a line out. `bench_worker THREADS`; the requests stand in tools/bench/peers/worker.py.

use std::collections::HashMap;
use std::io::{BufRead, Write};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use deberta_ref::bench::{MatrixProduct, required_operations};
use deberta_ref::{
    Head, Inputs, Keep, Model, ModelDirectory, NamedTensors, Outputs, Profile, TensorData, Trace, read_inputs,
};
use ndarray::Axis;
use serde_json::{Value, json};

#[derive(Default)]
struct Worker {
    model: Option<Model<'static, f32>>,
    inputs: Option<Inputs<f32>>,
    outputs: Option<Outputs<f32>>,
    product: Option<MatrixProduct<f32>>,
}

impl Worker {
    fn answer(&mut self, request: &Value) -> Result<Value> {
        let path = |key: &str| request[key].as_str().map(Path::new).with_context(|| format!("no `{key}`"));
        let start = Instant::now();
        match request["do"].as_str() {
            Some("load") => {
                // One model a process: it may live as long.
                let directory: &'static ModelDirectory = Box::leak(Box::new(ModelDirectory::open(path("model")?)?));
                self.model = Some(directory.load(Head::Base, Profile::HF_5)?);
            }
            Some("inputs") => self.inputs = Some(read_inputs(path("file")?)?.0),
            Some("run") => {
                let (model, inputs) =
                    self.model.as_ref().zip(self.inputs.as_ref()).context("`load` and `inputs` first")?;
                self.outputs = None;
                let start = Instant::now();
                let outputs = model.forward(inputs, Keep::default(), &mut Trace::off())?;
                let seconds = start.elapsed().as_secs_f64();
                self.outputs = Some(outputs);
                return Ok(json!({ "seconds": seconds }));
            }
            Some("operations") => {
                let (model, inputs) =
                    self.model.as_ref().zip(self.inputs.as_ref()).context("`load` and `inputs` first")?;
                let operations = required_operations(model.config(), model.profile(), model.head(), &lengths(inputs));
                return Ok(json!({ "operations": operations }));
            }
            Some("product") => {
                let seconds = self.product.get_or_insert_default().time().as_secs_f64();
                return Ok(json!({ "seconds": seconds }));
            }
            Some("save") => {
                let outputs = self.outputs.as_ref().context("`run` first")?;
                let states = TensorData::new(&outputs.last_hidden_state.view().into_dyn());
                let tensors = NamedTensors { entries: vec![("last_hidden_state".to_owned(), states)] };
                tensors.write(path("file")?, HashMap::new())?;
            }
            Some(other) => bail!("unknown request `{other}`"),
            None => bail!("no `do`"),
        }
        Ok(json!({ "seconds": start.elapsed().as_secs_f64() }))
    }
}

/// The number of tokens of each sequence that exist.
fn lengths(inputs: &Inputs<f32>) -> Vec<usize> {
    let rows = match (&inputs.attention_mask, &inputs.input_ids) {
        (Some(mask), _) => mask.map(|&seen| usize::from(seen == 1)),
        (None, Some(ids)) => ids.map(|_| 1),
        (None, None) => return Vec::new(),
    };
    rows.sum_axis(Axis(1)).iter().copied().collect()
}

fn main() -> Result<()> {
    let threads = std::env::args().nth(1).context("usage: bench_worker THREADS")?;
    deberta_ref::set_threads(threads.parse().with_context(|| format!("`{threads}` is no number of threads"))?);
    let mut worker = Worker::default();
    for line in std::io::stdin().lock().lines() {
        let answer = serde_json::from_str(&line?)
            .map_err(anyhow::Error::from)
            .and_then(|request| worker.answer(&request))
            .unwrap_or_else(|error| json!({ "error": format!("{error:#}") }));
        println!("{answer}");
        std::io::stdout().flush()?;
    }
    Ok(())
}
