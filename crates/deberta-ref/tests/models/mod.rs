//! Small models with random weights, for every task.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;

use deberta_testkit::fixtures;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use tempfile::TempDir;

/// The model directories of `fixtures/pipelines`, put together in a folder.
pub struct Models(TempDir);

impl Models {
    pub fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let manifest = manifest();
        for (name, model) in manifest["models"].as_object().unwrap() {
            let path = folder.path().join(name);
            fs::create_dir(&path).unwrap();
            let mut config = manifest["config"].as_object().unwrap().clone();
            config.extend(model["config"].as_object().unwrap().clone());
            fs::write(path.join("config.json"), Value::Object(config).to_string()).unwrap();
            fs::write(path.join("tokenizer_config.json"), model["tokenizer_config"].to_string()).unwrap();
            fs::copy(fixtures("tokenizer/spm.model"), path.join("spm.model")).unwrap();
            let weights = fixtures("pipelines").join(model["weights"].as_str().unwrap());
            fs::copy(weights, path.join("model.safetensors")).unwrap();
        }
        Self(folder)
    }

    /// Adds `decoder`: `mlm-new` with absolute positions for the enhanced mask decoder, and no `architectures`.
    #[allow(dead_code, reason = "one of the two test programs needs it")]
    pub fn add_decoder(&self) {
        let (from, to) = (self.path("mlm-new"), self.path("decoder"));
        fs::create_dir(&to).unwrap();
        for name in ["spm.model", "tokenizer_config.json"] {
            fs::copy(from.join(name), to.join(name)).unwrap();
        }
        let mut config: Value = serde_json::from_slice(&fs::read(from.join("config.json")).unwrap()).unwrap();
        config.as_object_mut().unwrap().remove("architectures");
        fs::write(to.join("config.json"), config.to_string()).unwrap();
        let bytes = fs::read(from.join("model.safetensors")).unwrap();
        let weights = SafeTensors::deserialize(&bytes).unwrap();
        let rows = config["max_position_embeddings"].as_u64().unwrap() as usize;
        let width = config["hidden_size"].as_u64().unwrap() as usize;
        let table: Vec<u8> = (0..rows * width).flat_map(|i| ((i as f32 * 0.7).sin()).to_le_bytes()).collect();
        let mut tensors: HashMap<String, TensorView<'_>> = weights.tensors().into_iter().collect();
        let table = TensorView::new(Dtype::F32, vec![rows, width], &table).unwrap();
        tensors.insert("deberta.embeddings.position_embeddings.weight".to_owned(), table);
        safetensors::serialize_to_file(&tensors, None, &to.join("model.safetensors")).unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

fn manifest() -> Value {
    serde_json::from_slice(&fs::read(fixtures("pipelines/manifest.json")).unwrap()).unwrap()
}
