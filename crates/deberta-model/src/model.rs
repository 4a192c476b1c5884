//! A whole model: embeddings, encoder and head, from inputs to outputs.

use std::collections::BTreeMap;

use deberta_ops::Real;
use ndarray::{Array2, Array3, Array4, ArrayD, ArrayViewD, Axis, CowArray, IxDyn};

use crate::config::DebertaV2Config;
use crate::disentangled_attention::{Attention, Plan};
use crate::embeddings::Embeddings;
use crate::encoder::{Encoded, Encoder};
use crate::enhanced_mask_decoder;
use crate::error::ModelError;
use crate::heads::{HeadWeights, IGNORED, LanguageModelHead, pool_by_attention, token_classification};
use crate::inputs::{Batch, Inputs, Labels, Packing};
use crate::predicted::{LabelledWords, Predicted, ignores_class};
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
    attention: Attention,
}

/// A batch as it is computed, with padding or without, and what its attentions share.
struct Computed<'a, T> {
    batch: &'a Batch<T>,
    /// How to undo the packing, where padding was left out.
    packing: Option<&'a Packing>,
    positions: Option<&'a RelativePositions>,
    plan: Option<&'a Plan>,
}

impl<T: Real> Computed<'_, T> {
    /// Rows of the computed batch as rows of the batch that was asked for.
    fn unpack(&self, rows: Array2<T>) -> Array2<T> {
        match self.packing {
            Some(packing) => packing.unpack(rows),
            None => rows,
        }
    }

    /// Zeros in place of what a head made of padding.
    fn blank(&self, mut predicted: Predicted<T>) -> Predicted<T> {
        let values = [&mut predicted.logits, &mut predicted.start_logits, &mut predicted.end_logits];
        if let Some(packing) = self.packing {
            values.into_iter().flatten().for_each(|values| packing.blank(values));
        }
        predicted
    }
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
            attention: Attention::default(),
        })
    }

    /// The model with attention computed in one of its two ways.
    ///
    /// [`Attention::Fused`], the default, computes no intermediates and no padding. It serves where nobody traces, no
    /// probabilities are kept, the mask tells tokens that exist from those that do not, without holes, and nothing that is
    /// asked for depends on what padding becomes: hidden states and logits of padding are then zero. Everywhere else
    /// [`Attention::Reference`] is used whatever was chosen: what exists comes out the same.
    #[must_use]
    pub fn with_attention(self, attention: Attention) -> Self {
        Self { attention, ..self }
    }

    /// The attention by which an untraced forward pass over these inputs is computed.
    ///
    /// # Errors
    /// Inputs that do not fit the model.
    pub fn attention(&self, inputs: &Inputs<T>, keep: Keep) -> Result<Attention, ModelError> {
        let packed = self.packed(inputs, &Batch::new(&self.config, self.head, inputs)?, keep, &Trace::off());
        Ok(if packed.is_some() { Attention::Fused } else { Attention::Reference })
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
        let packed = self.packed(inputs, &batch, keep, trace);
        let positions = |length| {
            let relative = self.config.relative_attention;
            relative.then(|| RelativePositions::new(&self.config, &self.profile, length, length))
        };
        let all_positions = if packed.is_none() { positions(length) } else { None };
        let plan = packed.as_ref().map(|(packed, _)| Plan::new(packed.sequences.clone(), positions));
        let computed = Computed {
            batch: packed.as_ref().map_or(&batch, |(packed, _)| packed),
            packing: packed.as_ref().map(|(_, packing)| packing),
            positions: all_positions.as_ref(),
            plan: plan.as_ref(),
        };
        let (embeddings, encoded) = trace.within("deberta", |trace| {
            let embeddings = self.embeddings.forward(computed.batch, trace); // [B·L, E]
            let encoded =
                self.encoder.forward(&embeddings, computed.batch, computed.positions, keep, computed.plan, trace);
            computed.batch.emit(trace, "", &encoded.last);
            (embeddings, encoded)
        });
        let predicted = self.predict(inputs, &batch, &computed, &encoded, trace)?;
        let states = |rows: Array2<T>| {
            let shape = (batch.size, length, rows.ncols());
            computed.unpack(rows).into_shape_with_order(shape).expect("as many rows as tokens")
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
        computed: &Computed<'_, T>,
        encoded: &Encoded<T>,
        trace: &mut Trace<'_, T>,
    ) -> Result<Predicted<T>, ModelError> {
        let labels = inputs.labels.as_ref();
        let last = match &self.head_weights {
            HeadWeights::Base => return Ok(Predicted::default()),
            HeadWeights::LanguageModel(head) => {
                return self.predict_words(head, labels, batch, computed, encoded, trace);
            }
            _ => computed.unpack(encoded.last.clone()), // [B·L, E]
        };
        match &self.head_weights {
            HeadWeights::Base | HeadWeights::LanguageModel(_) => unreachable!("served above"),
            HeadWeights::Pooled { pooler, classifier } => {
                let pooled = match pooler {
                    Some(pooler) => pooler.forward(&last, batch, trace),
                    None => pool_by_attention(&last, batch),
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
                let logits = token_classification(&last, proj.as_ref(), classifier, batch, trace); // [B·L, C]
                Ok(computed.blank(Predicted::tokens(&self.profile, logits, batch, labels)?))
            }
            HeadWeights::QuestionAnswering(qa_outputs) => {
                let logits = qa_outputs.forward(last.view()); // [B·L, 2]
                batch.emit(trace, "qa_outputs", &logits);
                Ok(computed.blank(Predicted::spans(&logits, inputs, batch)?))
            }
            HeadWeights::ReplacedTokenDetection(head) => {
                let logits = head.forward(&last, batch, trace); // [B, L]
                Ok(computed.blank(Predicted::replaced(logits, batch, labels)?))
            }
        }
    }

    /// Masked language modelling, through the enhanced mask decoder where head and profile say so.
    fn predict_words(
        &self,
        head: &LanguageModelHead<'_, T>,
        labels: Option<&Labels>,
        batch: &Batch<T>,
        computed: &Computed<'_, T>,
        encoded: &Encoded<T>,
        trace: &mut Trace<'_, T>,
    ) -> Result<Predicted<T>, ModelError> {
        let Computed { batch: rows, positions, plan, .. } = *computed;
        let decoded = (self.head == Head::EnhancedMaskedLm && !self.config.position_biased_input).then(|| {
            trace.within("lm_predictions", |trace| {
                enhanced_mask_decoder::decode(&self.embeddings, &self.encoder, encoded, rows, positions, plan, trace)
            })
        });
        let states = decoded.as_ref().unwrap_or(&encoded.last); // [B·L, E], or without padding
        let word = self.embeddings.word.view();
        if let Some(labelled) = LabelledWords::of(self.head, &self.profile, labels, batch.size * batch.length)? {
            // Microsoft predicts the labelled words only, and returns a loss for each.
            let gathered = computed.unpack(states.clone()).select(Axis(0), &labelled.rows); // [M, E]
            return Predicted::labelled_words(head.forward(gathered.view(), word, 1, trace), &labelled);
        }
        let logits = computed.unpack(head.forward(states.view(), word, rows.size, trace)); // [B·L, V]
        Predicted::words(logits, batch, labels)
    }

    /// The batch without padding, where the fused attention serves.
    fn packed(
        &self,
        inputs: &Inputs<T>,
        batch: &Batch<T>,
        keep: Keep,
        trace: &Trace<'_, T>,
    ) -> Option<(Batch<T>, Packing)> {
        if self.attention != Attention::Fused || !trace.is_off() || keep.attentions || batch.decoder_mask.is_some() {
            return None;
        }
        let (packed, packing) = batch.packed()?;
        let matters = packing.has_padding() && self.depends_on_padding(inputs, &packing);
        (!matters).then_some((packed, packing))
    }

    /// Whether what the head is asked for depends on what padding becomes.
    fn depends_on_padding(&self, inputs: &Inputs<T>, packing: &Packing) -> bool {
        // Labels of padding that a loss would count; labels of another number are an error that the loss will report.
        let labels: Vec<i64> = inputs.labels.as_ref().map_or_else(Vec::new, |l| l.int().into_iter().collect());
        let counted = |counts: &dyn Fn(i64) -> bool| {
            labels.len() == packing.rows() && packing.padded_rows().any(|i| counts(labels[i]))
        };
        match self.head {
            Head::Base => false,
            Head::MaskedLm | Head::EnhancedMaskedLm => {
                let alone = LabelledWords::serve(self.head, &self.profile);
                counted(&|l| if alone { l > 0 } else { l != IGNORED })
            }
            Head::TokenClassification => counted(&|l| !ignores_class(&self.profile, l)),
            Head::QuestionAnswering => inputs.start_positions.is_some() && inputs.end_positions.is_some(),
            Head::SequenceClassification | Head::MultipleChoice | Head::ReplacedTokenDetection => {
                !packing.keeps_first_tokens()
            }
        }
    }
}
