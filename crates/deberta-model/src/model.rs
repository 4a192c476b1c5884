//! A whole model: embeddings, encoder and head, from inputs to outputs.

use std::collections::BTreeMap;

use deberta_ops::Real;
use ndarray::{Array2, Array3, Array4, ArrayD, ArrayViewD, Axis, CowArray, IxDyn};

use crate::config::DebertaV2Config;
use crate::embeddings::Embeddings;
use crate::encoder::{Encoded, Encoder};
use crate::enhanced_mask_decoder;
use crate::error::ModelError;
use crate::heads::{HeadWeights, LanguageModelHead, pool_by_attention, token_classification};
use crate::inputs::{Batch, Inputs, Labels};
use crate::predicted::{LabelledWords, Predicted};
use crate::profile::Profile;
use crate::relative_position::RelativePositions;
use crate::schema::Head;
use crate::trace::Trace;
use crate::weights::Weights;

/// Which of the large intermediates to return.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keep {
    /// The states after the embeddings and after every layer.
    pub hidden_states: bool,
    /// The probabilities of every layer.
    pub attentions: bool,
}

/// What a forward pass returns; absent where the head, the inputs or [`Keep`] do not ask for it.
#[derive(Clone, Debug)]
pub struct Outputs<T> {
    /// The output of the last layer, [B, L, E].
    pub last_hidden_state: Array3<T>,
    /// The embeddings, where the profile counts them, and the output of each layer, [B, L, E] each.
    pub hidden_states: Vec<Array3<T>>,
    /// The probabilities of each layer, [B, H, L, L] each.
    pub attentions: Vec<Array4<T>>,
    /// What the head predicts: [B, L, V] for words ([M, V] for M labelled ones where the profile gathers them), [B, C]
    /// for a sequence or its choices, [B, L, C] for tokens, [B, L] for replaced tokens.
    pub logits: Option<ArrayD<T>>,
    /// Where an answer begins, [B, L].
    pub start_logits: Option<ArrayD<T>>,
    /// Where an answer ends, [B, L].
    pub end_logits: Option<ArrayD<T>>,
    /// The loss, shape \[\], or one number a token where the profile does not reduce it.
    pub loss: Option<ArrayD<T>>,
}

impl<T> Outputs<T> {
    /// Hands over every output that is there under its name in transformers, `hidden_states.0` and so on.
    pub fn for_each(&self, mut visit: impl FnMut(&str, ArrayViewD<'_, T>)) {
        for (i, states) in self.hidden_states.iter().enumerate() {
            visit(&format!("hidden_states.{i}"), states.view().into_dyn());
        }
        for (i, probabilities) in self.attentions.iter().enumerate() {
            visit(&format!("attentions.{i}"), probabilities.view().into_dyn());
        }
        visit("last_hidden_state", self.last_hidden_state.view().into_dyn());
        let optional = [
            ("logits", &self.logits),
            ("start_logits", &self.start_logits),
            ("end_logits", &self.end_logits),
            ("loss", &self.loss),
        ];
        for (name, value) in optional {
            if let Some(value) = value {
                visit(name, value.view());
            }
        }
    }
}

/// A DeBERTa-v2 or v3 model with a head. `'w` is the lifetime of weights that are not its own.
pub struct Model<'w, T: Clone> {
    config: DebertaV2Config,
    profile: Profile,
    head: Head,
    embeddings: Embeddings<'w, T>,
    encoder: Encoder<'w, T>,
    head_weights: HeadWeights<'w, T>,
}

impl<'w, T: Real> Model<'w, T> {
    /// Builds a model from arrays named as in [`crate::schema()`]; arrays it does not know are ignored.
    ///
    /// # Errors
    /// [`ModelError::Weights`], which names every parameter that is missing or misshapen.
    pub fn new(
        config: DebertaV2Config,
        head: Head,
        profile: Profile,
        arrays: BTreeMap<String, CowArray<'w, T, IxDyn>>,
    ) -> Result<Self, ModelError> {
        let mut weights = Weights::new(&config, head, &profile, arrays)?;
        Ok(Self {
            embeddings: Embeddings::new(&config, &profile, &mut weights),
            encoder: Encoder::new(&config, &profile, &mut weights),
            head_weights: HeadWeights::new(&config, head, &profile, &mut weights),
            config,
            profile,
            head,
        })
    }

    /// The configuration.
    pub fn config(&self) -> &DebertaV2Config {
        &self.config
    }

    /// The head.
    pub fn head(&self) -> Head {
        self.head
    }

    /// The reference implementation whose choices this model follows.
    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    /// A forward pass. `trace` is handed every intermediate in the order of computation.
    ///
    /// # Errors
    /// Inputs that do not fit the model or one another; each error names the input.
    pub fn forward(&self, inputs: &Inputs<T>, keep: Keep, trace: &mut Trace<'_, T>) -> Result<Outputs<T>, ModelError> {
        let batch = Batch::new(&self.config, self.head, inputs)?;
        let length = batch.length;
        let positions = (self.config.relative_attention)
            .then(|| RelativePositions::new(&self.config, &self.profile, length, length));
        let (embeddings, encoded) = trace.within("deberta", |trace| {
            let embeddings = self.embeddings.forward(&batch, trace); // [B·L, E]
            let encoded = self.encoder.forward(&embeddings, &batch, positions.as_ref(), keep, trace);
            batch.emit(trace, "", &encoded.last);
            (embeddings, encoded)
        });
        let predicted = self.predict(inputs, &batch, &encoded, positions.as_ref(), trace)?;
        let states = |rows: Array2<T>| {
            let shape = (batch.size, length, rows.ncols());
            rows.into_shape_with_order(shape).expect("as many rows as tokens")
        };
        let first = keep.hidden_states && self.profile.hidden_states_begin_with_embeddings;
        let hidden_states = first.then_some(embeddings).into_iter().chain(encoded.hidden_states);
        Ok(Outputs {
            hidden_states: hidden_states.map(states).collect(),
            last_hidden_state: states(encoded.last),
            attentions: encoded.attentions,
            logits: predicted.logits,
            start_logits: predicted.start_logits,
            end_logits: predicted.end_logits,
            loss: predicted.loss,
        })
    }

    fn predict(
        &self,
        inputs: &Inputs<T>,
        batch: &Batch<T>,
        encoded: &Encoded<T>,
        positions: Option<&RelativePositions>,
        trace: &mut Trace<'_, T>,
    ) -> Result<Predicted<T>, ModelError> {
        let labels = inputs.labels.as_ref();
        match &self.head_weights {
            HeadWeights::Base => Ok(Predicted::default()),
            HeadWeights::LanguageModel(head) => self.predict_words(head, labels, batch, encoded, positions, trace),
            HeadWeights::Pooled { pooler, classifier } => {
                let pooled = match pooler {
                    Some(pooler) => pooler.forward(&encoded.last, batch, trace),
                    None => pool_by_attention(&encoded.last, batch),
                }; // [B, E]
                trace.emit("dropout", pooled.view());
                let logits = classifier.forward(pooled.view()); // [B, C], or [B·C, 1] for choices
                trace.emit("classifier", logits.view());
                match batch.choices {
                    Some(choices) => Predicted::choices(logits, choices, labels),
                    None => Predicted::sequences(&self.config, &self.profile, logits, labels),
                }
            }
            HeadWeights::Token { proj, classifier } => {
                let logits = token_classification(&encoded.last, proj.as_ref(), classifier, batch, trace); // [B·L, C]
                Predicted::tokens(&self.profile, logits, batch, labels)
            }
            HeadWeights::QuestionAnswering(qa_outputs) => {
                let logits = qa_outputs.forward(encoded.last.view()); // [B·L, 2]
                batch.emit(trace, "qa_outputs", &logits);
                Predicted::spans(&logits, inputs, batch)
            }
            HeadWeights::ReplacedTokenDetection(head) => {
                Predicted::replaced(head.forward(&encoded.last, batch, trace), batch, labels)
            }
        }
    }

    /// Masked language modelling, through the enhanced mask decoder where head and profile say so.
    fn predict_words(
        &self,
        head: &LanguageModelHead<'_, T>,
        labels: Option<&Labels>,
        batch: &Batch<T>,
        encoded: &Encoded<T>,
        positions: Option<&RelativePositions>,
        trace: &mut Trace<'_, T>,
    ) -> Result<Predicted<T>, ModelError> {
        let decoded = (self.head == Head::EnhancedMaskedLm && !self.config.position_biased_input).then(|| {
            trace.within("lm_predictions", |trace| {
                enhanced_mask_decoder::decode(&self.embeddings, &self.encoder, encoded, batch, positions, trace)
            })
        });
        let states = decoded.as_ref().unwrap_or(&encoded.last); // [B·L, E]
        let word = self.embeddings.word.view();
        if let Some(labelled) = LabelledWords::of(self.head, &self.profile, labels, states.nrows())? {
            // Microsoft predicts the labelled words only, and returns a loss for each.
            let gathered = states.select(Axis(0), &labelled.rows); // [M, E]
            return Predicted::labelled_words(head.forward(gathered.view(), word, 1, trace), &labelled);
        }
        Predicted::words(head.forward(states.view(), word, batch.size, trace), batch, labels)
    }
}
