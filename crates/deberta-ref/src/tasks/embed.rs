//! Embeddings: the states of a text's tokens, or one vector for all of it.
//!
//! | pooling | result | as in |
//! |---|---|---|
//! | tokens | the last hidden state [L, E] | `FeatureExtractionPipeline` |
//! | cls | its first row \[E\] | |
//! | mean | the mean of its rows \[E\], `[CLS]` and `[SEP]` among them | sentence-transformers |
//! | pooler | act(W·dropout(h₀) + b) \[E\], which a fine-tuned classifier reads | `ContextPooler` |

use deberta_model::{Head, Observer, Trace};
use deberta_tokenizer::Encoding;
use ndarray::{ArrayD, ArrayViewD, Axis, s};

use super::classify::TextPair;
use super::error::TaskError;
use super::text_model::{Setup, TextModel};
use crate::ModelDirectory;

/// An encoder of texts.
pub struct Embed<'d> {
    text: TextModel<'d>,
    pooling: Pooling,
}

/// What becomes of the states of a text's tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// They stay.
    Tokens,
    /// The first one's.
    Cls,
    /// Their mean.
    Mean,
    /// What the pooler of a classifier makes of the first.
    Pooler,
}

/// A text's states or vector.
#[derive(Clone, Debug, PartialEq)]
pub struct Embedding {
    /// [L, E], or \[E\].
    pub values: ArrayD<f32>,
    /// The ids of its tokens, \[L\].
    pub input_ids: Vec<u32>,
}

impl<'d> Embed<'d> {
    /// Loads the encoder of a directory, with the pooler if that is asked for.
    ///
    /// # Errors
    /// Weights without a pooler where it is asked for, and files that are broken.
    pub fn load(directory: &'d ModelDirectory, pooling: Pooling, setup: &Setup) -> Result<Self, TaskError> {
        let head = match pooling {
            Pooling::Pooler if directory.serves(Head::MultipleChoice, &setup.profile)? => Head::MultipleChoice,
            Pooling::Pooler => Head::SequenceClassification,
            _ => Head::Base,
        };
        Ok(Self { text: TextModel::load_for("pool texts by a pooler", directory, head, setup)?, pooling })
    }

    /// The model and its tokenizer.
    pub fn text_model(&self) -> &TextModel<'d> {
        &self.text
    }

    /// Embeds every text; longer ones are cut to `max_length` tokens if it is given.
    ///
    /// # Errors
    /// A text that the model cannot take.
    pub fn run(&self, texts: &[TextPair<'_>], max_length: Option<usize>) -> Result<Vec<Embedding>, TaskError> {
        let encode = |(i, text): (usize, &TextPair<'_>)| {
            self.text.encode(text.input(), max_length).map_err(TaskError::of_input(i))
        };
        let encodings: Vec<Encoding> = texts.iter().enumerate().map(encode).collect::<Result<_, _>>()?;
        let sequences: Vec<&Encoding> = encodings.iter().collect();
        let mut values = vec![ArrayD::default(ndarray::IxDyn(&[0])); sequences.len()];
        for batch in self.text.batches(&sequences, None) {
            let mut pooled = Pooled(None);
            let states = match self.pooling {
                Pooling::Pooler => {
                    self.text.forward_traced(&batch, &mut Trace::to(&mut pooled))?;
                    pooled.0.ok_or_else(|| TaskError::Setting {
                        setting: "--pooling",
                        reason: "the device does not hand out what the pooler computes; use --device cpu".to_owned(),
                    })?
                } // [B, E]
                _ => self.text.forward(&batch)?.last_hidden_state.into_dyn(), // [B, L, E]
            };
            for (row, &member) in states.outer_iter().zip(&batch.members) {
                values[member] = self.pool(row, sequences[member].len());
            }
        }
        let embedding = |(values, encoding): (ArrayD<f32>, Encoding)| Embedding { values, input_ids: encoding.ids };
        Ok(values.into_iter().zip(encodings).map(embedding).collect())
    }

    /// One text's row of a batch, without padding.
    fn pool(&self, row: ArrayViewD<'_, f32>, length: usize) -> ArrayD<f32> {
        match self.pooling {
            Pooling::Pooler => row.to_owned(),
            Pooling::Tokens => row.slice(s![..length, ..]).to_owned().into_dyn(),
            Pooling::Cls => row.index_axis(Axis(0), 0).to_owned(),
            Pooling::Mean => {
                let wide = row.slice(s![..length, ..]).mapv(f64::from);
                wide.sum_axis(Axis(0)).mapv(|sum| (sum / length as f64) as f32).into_dyn()
            }
        }
    }
}

/// Keeps what the pooler computes.
struct Pooled(Option<ArrayD<f32>>);

impl Observer<f32> for Pooled {
    fn wants(&self, path: &str) -> bool {
        path == "pooler"
    }

    fn observe(&mut self, _: &str, value: ArrayViewD<'_, f32>) {
        self.0 = Some(value.to_owned());
    }
}
