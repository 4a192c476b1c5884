//! A whole model on a device, from inputs to outputs.
//!
//! Weights go to the device once, and with them the position keys and queries, which never change. A pass uploads the
//! indices of its batch, runs kernel after kernel without waiting, and downloads what was asked for. What becomes of
//! logits and labels afterwards is [`Predicted`]'s to say, as on the CPU.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use deberta_model::{
    Batch, DebertaV2Config, Head, Inputs, Keep, LabelledWords, Outputs, Predicted, Profile, Trace, Weights,
};
use ndarray::{Array2, CowArray, IxDyn};

use crate::device::{Device, Precision};
use crate::embeddings::Embeddings;
use crate::encoder::{Encoded, Encoder};
use crate::enhanced_mask_decoder;
use crate::error::CudaError;
use crate::heads::{self, HeadWeights};
use crate::ops::{Ops, Rung};
use crate::packing::{Packing, Padding};
use crate::pass::Pass;
use crate::replay::{Computed, Recorded, Replays};
use crate::staged::{Given, Staged};
use crate::tensors::Rows;
use crate::weights::Loader;

/// A DeBERTa-v2 or v3 model with a head, on a device.
pub struct Model<D: Device> {
    // Dropped before the device whose kernels they call.
    replays: RefCell<Replays<D>>,
    device: D,
    precision: Precision,
    config: DebertaV2Config,
    profile: Profile,
    head: Head,
    rung: Option<Rung>,
    embeddings: Embeddings<D::Memory>,
    encoder: Encoder<D::Memory>,
    head_weights: HeadWeights<D::Memory>,
}

impl<D: Device> Model<D> {
    /// Puts the model onto `device`, from arrays named as in [`deberta_model::schema()`].
    ///
    /// # Errors
    /// Parameters that are missing or misshapen, all of them named, and what the device cannot do.
    pub fn new(
        device: D,
        precision: Precision,
        config: DebertaV2Config,
        head: Head,
        profile: Profile,
        arrays: BTreeMap<String, CowArray<'_, f32, IxDyn>>,
    ) -> Result<Self, CudaError> {
        let weights = Weights::new(&config, head, &profile, arrays)?;
        let mut loader = Loader { ops: Ops::new(&device, precision), weights, eps: config.layer_norm_eps };
        let embeddings = Embeddings::new(&config, &mut loader)?;
        let encoder = Encoder::new(&config, &profile, &mut loader)?;
        let head_weights = HeadWeights::new(&config, head, &profile, &mut loader)?;
        let replays = RefCell::new(Replays::new(0));
        Ok(Self { embeddings, encoder, head_weights, replays, device, precision, config, profile, head, rung: None })
    }

    /// A forward pass. Padded rows are computed where an output depends on them ([`Padding::needed`]), and are zero
    /// elsewhere.
    ///
    /// # Errors
    /// Inputs that do not fit the model or one another, and what the device cannot do.
    pub fn forward(
        &self,
        inputs: &Inputs<f32>,
        keep: Keep,
        trace: &mut Trace<'_, f32>,
    ) -> Result<Outputs<f32>, CudaError> {
        self.pass(inputs, keep, |batch| Padding::needed(self.head, inputs, batch, keep), trace)
    }

    /// A forward pass that computes padded rows as the reference does, whether an output depends on them or not.
    ///
    /// # Errors
    /// As [`Self::forward`].
    pub fn forward_whole(
        &self,
        inputs: &Inputs<f32>,
        keep: Keep,
        trace: &mut Trace<'_, f32>,
    ) -> Result<Outputs<f32>, CudaError> {
        self.pass(inputs, keep, |_| Padding::Computed, trace)
    }
}

impl<D: Device> Model<D> {
    /// The configuration.
    pub fn config(&self) -> &DebertaV2Config {
        &self.config
    }

    /// The head.
    pub fn head(&self) -> Head {
        self.head
    }

    /// The reference implementation that it follows.
    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    /// The arithmetic.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// The device.
    pub fn device(&self) -> &D {
        &self.device
    }

    /// Chooses the kernel of attention, in the place of the best that serves.
    pub fn choose_rung(&mut self, rung: Option<Rung>) {
        (self.rung, self.replays) = (rung, RefCell::new(Replays::new(self.replays.get_mut().most())));
    }

    /// Remembers so many shapes of passes: the second pass of a shape is recorded, and later ones replay it. 0, as at first:
    /// every pass launches its kernels one by one, as one that is traced always does.
    pub fn replay_shapes(&mut self, most: usize) {
        self.replays = RefCell::new(Replays::new(most));
    }

    /// How many recordings are kept.
    pub fn recordings(&self) -> usize {
        self.replays.borrow().count()
    }

    /// How long each of `repeat` passes takes on the device, from the first kernel to the last, after one that is not
    /// counted. Inputs are uploaded before, and outputs stay where they are. Where shapes are remembered, a recording is timed.
    ///
    /// # Errors
    /// As [`Self::forward`].
    pub fn time(&self, inputs: &Inputs<f32>, repeat: usize) -> Result<Vec<Duration>, CudaError> {
        let ops = Ops::new(&self.device, self.precision);
        let batch = Batch::new(&self.config, self.head, inputs)?;
        let packing = Packing::new(&batch, Padding::Skipped);
        let staged = Staged::new(ops, &Given::new(&self.config, &self.profile, &batch, &packing, None))?;
        let pass = Pass::new(ops, &packing, &staged, Keep::default(), self.rung);
        let compute = || self.compute(&pass, &mut Trace::off());
        let recorded = match self.replays.borrow().most() {
            0 => None,
            _ => Some(self.device.record(compute)?),
        };
        let timed = || {
            let begin = Instant::now();
            match &recorded {
                Some((recording, computed)) => {
                    self.device.replay(recording)?;
                    computed.encoded.last().wait(ops)?;
                }
                None => compute()?.encoded.last().wait(ops)?,
            }
            Ok(begin.elapsed())
        };
        timed()?;
        (0..repeat).map(|_| timed()).collect()
    }

    fn pass(
        &self,
        inputs: &Inputs<f32>,
        keep: Keep,
        padding: impl FnOnce(&Batch<f32>) -> Padding,
        trace: &mut Trace<'_, f32>,
    ) -> Result<Outputs<f32>, CudaError> {
        let ops = Ops::new(&self.device, self.precision);
        let batch = &Batch::new(&self.config, self.head, inputs)?;
        let mut packing = Packing::new(batch, padding(batch));
        if packing.count() == 0 {
            // Nothing exists: what is returned is padding.
            packing = Packing::new(batch, Padding::Computed);
        }
        let labels = inputs.labels.as_ref();
        let labelled = match self.head_weights {
            HeadWeights::LanguageModel(_) => {
                LabelledWords::of(self.head, &self.profile, labels, batch.size * batch.length)?
            }
            _ => None,
        };
        let labelled_rows = labelled.as_ref().map(|labelled| packing.find(&labelled.rows));
        let given = Given::new(&self.config, &self.profile, batch, &packing, labelled_rows);
        let finish = |staged: &Staged<D::Memory>, computed: &Computed<D::Memory>| {
            let logits = computed.logits.as_ref().map(|logits| logits.download(ops)).transpose()?;
            let predicted = self.predict(inputs, batch, &packing, labelled.as_ref(), logits)?;
            self.outputs(&Pass::new(ops, &packing, staged, keep, self.rung), &computed.encoded, predicted)
        };
        let mut replays = self.replays.borrow_mut();
        let place = trace.is_off().then(|| replays.met(given.shape(&packing, keep))).flatten();
        let Some(place) = place else {
            let staged = Staged::new(ops, &given)?;
            let computed = self.compute(&Pass::new(ops, &packing, &staged, keep, self.rung), trace)?;
            return finish(&staged, &computed);
        };
        match place {
            Some(recorded) => recorded.staged.write(ops, &given)?,
            None => {
                let staged = Staged::new(ops, &given)?;
                let pass = Pass::new(ops, &packing, &staged, keep, self.rung);
                let (recording, computed) = self.device.record(|| self.compute(&pass, &mut Trace::off()))?;
                *place = Some(Recorded { recording, staged, computed });
            }
        }
        let recorded = place.as_ref().expect("it is there, or was just recorded");
        self.device.replay(&recorded.recording)?;
        finish(&recorded.staged, &recorded.computed)
    }

    /// Everything that happens on the device: no memory of the host is read or written between the first kernel and the
    /// last, unless somebody watches.
    fn compute(&self, pass: &Pass<'_, D>, trace: &mut Trace<'_, f32>) -> Result<Computed<D::Memory>, CudaError> {
        let encoded = trace.within("deberta", |trace| {
            let embeddings = self.embeddings.forward(pass, trace)?; // [N, E]
            let encoded = self.encoder.forward(embeddings, pass, trace)?;
            pass.emit(trace, "", encoded.last())?;
            Ok::<_, CudaError>(encoded)
        })?;
        let states = encoded.last();
        let logits = match &self.head_weights {
            HeadWeights::Base => None,
            HeadWeights::LanguageModel(head) => {
                let enhanced = self.head == Head::EnhancedMaskedLm && !self.config.position_biased_input;
                let decoded = enhanced.then(|| {
                    trace.within("lm_predictions", |trace| {
                        enhanced_mask_decoder::decode(&self.embeddings, &self.encoder, &encoded, pass, trace)
                    })
                });
                let decoded = decoded.transpose()?;
                let states = decoded.as_ref().unwrap_or(states);
                let gathered = pass.labelled(states)?;
                Some(head.forward(pass.ops, gathered.as_ref().unwrap_or(states), &self.embeddings.word)?)
            }
            HeadWeights::Pooled { pooler, activation, classifier } => {
                Some(heads::pooled(states, pooler.as_ref(), *activation, classifier, pass)?)
            }
            HeadWeights::Token { proj, classifier, module } => {
                let logits = heads::tokens(states, proj.as_ref(), classifier, pass.ops)?;
                pass.emit(trace, module, &logits)?;
                Some(logits)
            }
            HeadWeights::ReplacedTokenDetection(head) => Some(head.forward(states, pass, trace)?),
        };
        Ok(Computed { encoded, logits })
    }

    /// What the logits of the device, a row for each row there or for each sequence, become.
    fn predict(
        &self,
        inputs: &Inputs<f32>,
        batch: &Batch<f32>,
        packing: &Packing,
        labelled: Option<&LabelledWords>,
        logits: Option<Array2<f32>>,
    ) -> Result<Predicted<f32>, CudaError> {
        let labels = inputs.labels.as_ref();
        let Some(logits) = logits else {
            return Ok(Predicted::default());
        };
        let predicted = match (self.head, labelled) {
            (_, Some(labelled)) => Predicted::labelled_words(logits, labelled),
            (Head::SequenceClassification, _) => Predicted::sequences(&self.config, &self.profile, logits, labels),
            (Head::MultipleChoice, _) => Predicted::choices(logits, batch.choices.unwrap_or(1), labels),
            (Head::TokenClassification, _) => Predicted::tokens(&self.profile, packing.unpack(&logits), batch, labels),
            (Head::QuestionAnswering, _) => Predicted::spans(&packing.unpack(&logits), inputs, batch),
            (Head::ReplacedTokenDetection, _) => Predicted::replaced(packing.unpack(&logits), batch, labels),
            (Head::Base | Head::MaskedLm | Head::EnhancedMaskedLm, _) => {
                Predicted::words(packing.unpack(&logits), batch, labels)
            }
        };
        Ok(predicted?)
    }

    fn outputs(
        &self,
        pass: &Pass<'_, D>,
        encoded: &Encoded<D::Memory>,
        predicted: Predicted<f32>,
    ) -> Result<Outputs<f32>, CudaError> {
        let (size, length) = pass.packing.shape();
        let states = |rows: &Rows<D::Memory>| {
            let all = pass.packing.unpack(&rows.download(pass.ops)?);
            let width = all.ncols();
            Ok::<_, CudaError>(all.into_shape_with_order((size, length, width)).expect("as many rows as tokens"))
        };
        let begin = usize::from(!self.profile.hidden_states_begin_with_embeddings);
        let kept = encoded.states().iter().skip(begin).filter(|_| pass.keep.hidden_states);
        let attentions = encoded.attentions.iter().map(|rows| {
            let shape = (size, self.config.num_attention_heads, length, length);
            Ok(rows.download(pass.ops)?.into_shape_with_order(shape).expect("a probability for every pair"))
        });
        Ok(Outputs {
            last_hidden_state: states(encoded.last())?,
            hidden_states: kept.map(states).collect::<Result<_, _>>()?,
            attentions: attentions.collect::<Result<_, CudaError>>()?,
            logits: predicted.logits,
            start_logits: predicted.start_logits,
            end_logits: predicted.end_logits,
            loss: predicted.loss,
        })
    }
}
