//! Answers the requests of ../compare.py with candle's DeBERTa-v2: one JSON object a line in, one a line out.

use std::io::{BufRead, Write};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device, Tensor, safetensors};
use candle_nn::VarBuilder;
use candle_transformers::models::debertav2::{Config, DebertaV2Model};
use serde_json::{Value, json};

#[derive(Default)]
struct Worker {
    model: Option<DebertaV2Model>,
    ids: Option<Tensor>,
    mask: Option<Tensor>,
    output: Option<Tensor>,
}

impl Worker {
    fn answer(&mut self, request: &Value) -> Result<Value> {
        let path = |key: &str| request[key].as_str().map(Path::new).with_context(|| format!("no `{key}`"));
        let start = Instant::now();
        match request["do"].as_str() {
            Some("load") => {
                let folder = path("model")?;
                let config: Config = serde_json::from_str(&std::fs::read_to_string(folder.join("config.json"))?)?;
                if config.conv_kernel_size.is_some_and(|size| size > 0) {
                    bail!("candle-transformers has no convolution in its DeBERTa-v2 (a todo! in ConvLayer)");
                }
                let weights = [folder.join("model.safetensors")];
                // SAFETY: nobody writes to the file while it is mapped.
                let builder = unsafe { VarBuilder::from_mmaped_safetensors(&weights, DType::F32, &Device::Cpu) }?;
                self.model = Some(DebertaV2Model::load(builder.pp("deberta"), &config)?);
            }
            Some("inputs") => {
                let mut tensors = safetensors::load(path("file")?, &Device::Cpu)?;
                self.ids = tensors.remove("input_ids");
                self.mask = tensors.remove("attention_mask");
            }
            Some("run") => {
                let (model, ids) = self.model.as_ref().zip(self.ids.as_ref()).context("`run` before `load` and `inputs`")?;
                self.output = None;
                let start = Instant::now();
                let output = model.forward(ids, None, self.mask.clone())?;
                let seconds = start.elapsed().as_secs_f64();
                self.output = Some(output);
                return Ok(json!({ "seconds": seconds }));
            }
            Some("save") => {
                let output = self.output.as_ref().context("`save` before `run`")?;
                output.save_safetensors("last_hidden_state", path("file")?)?;
            }
            Some(other) => bail!("unknown request `{other}`"),
            None => bail!("no `do`"),
        }
        Ok(json!({ "seconds": start.elapsed().as_secs_f64() }))
    }
}

fn main() -> Result<()> {
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
