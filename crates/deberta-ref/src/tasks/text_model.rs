//! A loaded head with its tokenizer, and batches of texts of like length.
//!
//! ```text
//! 1. order the sequences by length, the longest first
//! 2. take them in turn, as many as stay under the budget once padded to the first (one at least)
//! 3. run each batch, and hand each sequence's rows to the caller under its own number
//! ```
//!
//! The longest batch comes first, so that what does not fit in memory fails at once and not in the end.

use std::path::{Path, PathBuf};

use deberta_model::{DebertaV2Config, Head, Inputs, Keep, Labels, Model, Outputs, Profile, Trace};
use deberta_tokenizer::{EncodeOptions, Encoding, Input, Profile as TokenizerProfile, Tokenizer, Truncation};
use ndarray::{Array2, ArrayD, Axis};

use super::error::{TaskError, TaskProblem};
use crate::{DeviceName, Error, ModelDirectory, Place, Precision};

/// A number for each token of a sequence.
type OfTokens<'f> = dyn Fn(&Encoding) -> Vec<i64> + 'f;

/// The budget of a batch where nobody sets one: enough for the matrix products to run at full speed, little enough to
/// stay within a few hundred megabytes of intermediates.
pub const DEFAULT_BATCH_TOKENS: usize = 4096;

/// Whom to follow, and how much to compute at a time.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// The reference of the model.
    pub profile: Profile,
    /// The reference of the tokenizer.
    pub tokenizer: TokenizerProfile,
    /// Where to compute, in `f32`.
    pub device: DeviceName,
    /// Is told, in one sentence, where [`DeviceName::Auto`] found no GPU to use.
    pub say: fn(String),
    /// The most tokens of a batch, padding included. A longer text is a batch of its own.
    pub batch_tokens: usize,
}

impl Default for Setup {
    fn default() -> Self {
        Self::of(Profile::default())
    }
}

impl Setup {
    /// A model's profile with the tokenizer of the same programs.
    pub fn of(profile: Profile) -> Self {
        let tokenizer = match profile.name {
            name if name == Profile::HF_5.name => TokenizerProfile::Hf5,
            name if name == Profile::HF_4.name => TokenizerProfile::Hf4Fast,
            _ => TokenizerProfile::Slow,
        };
        Self { profile, tokenizer, device: DeviceName::default(), say: |_| (), batch_tokens: DEFAULT_BATCH_TOKENS }
    }
}

/// A model with its tokenizer.
pub struct TextModel<'d> {
    path: PathBuf,
    model: Placed<'d>,
    head: Head,
    config: DebertaV2Config,
    tokenizer: Tokenizer,
    batch_tokens: usize,
}

/// A model where it is computed.
enum Placed<'d> {
    Cpu(Box<Model<'d, f32>>),
    #[cfg(feature = "cuda")]
    Gpu(Box<deberta_cuda::Model<deberta_cuda::CudaDevice>>),
}

/// Sequences that are run together.
pub(crate) struct Batch {
    /// Which they are.
    pub members: Vec<usize>,
    /// [B, L], padded at the end; [B, 1, L] for multiple choice.
    pub inputs: Inputs<f32>,
}

impl<'d> TextModel<'d> {
    /// Loads the head and the tokenizer of a directory.
    ///
    /// # Errors
    /// Weights that do not serve the head, and tokenizer files that are missing or broken.
    pub fn load(directory: &'d ModelDirectory, head: Head, setup: &Setup) -> Result<Self, TaskError> {
        let tokenizer = Tokenizer::from_directory(directory.path(), Some(setup.tokenizer))?;
        let model = match setup.device.open(Precision::F32, setup.say)? {
            Place::Cpu => Placed::Cpu(Box::new(directory.load(head, setup.profile)?)),
            #[cfg(feature = "cuda")]
            Place::Gpu(gpu, precision) => {
                Placed::Gpu(Box::new(directory.load_on(*gpu, precision, head, setup.profile)?))
            }
        };
        let (path, config) = (directory.path().to_owned(), directory.config(head).clone());
        Ok(Self { path, model, head, config, tokenizer, batch_tokens: setup.batch_tokens.max(1) })
    }

    /// Loads a head that a task cannot do without.
    pub(crate) fn load_for(
        task: &'static str,
        directory: &'d ModelDirectory,
        head: Head,
        setup: &Setup,
    ) -> Result<Self, TaskError> {
        if !directory.serves(head, &setup.profile)? {
            let reason = format!("the weights of the head {head} are not there, or not all of them");
            return Err(TaskError::NoHead { path: directory.path().to_owned(), task, reason });
        }
        Self::load(directory, head, setup)
    }

    /// Where the model's files lie.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The head.
    pub fn head(&self) -> Head {
        self.head
    }

    /// The configuration.
    pub fn config(&self) -> &DebertaV2Config {
        &self.config
    }

    /// Encodes one text or a pair, cut to `max_length` where that is given, the longer text first.
    pub(crate) fn encode(&self, input: Input<'_>, max_length: Option<usize>) -> Result<Encoding, TaskProblem> {
        let truncation = max_length.map(|n| Truncation { side: self.tokenizer.truncation_side(), ..Truncation::to(n) });
        self.encode_with(input, truncation)
    }

    /// Encodes one text or a pair, and checks that the model can take it.
    pub(crate) fn encode_with(
        &self,
        input: Input<'_>,
        truncation: Option<Truncation>,
    ) -> Result<Encoding, TaskProblem> {
        let encoding = self.tokenizer.encode(input, &EncodeOptions { truncation, ..EncodeOptions::default() })?;
        self.check(&encoding)?;
        encoding.overflowing.iter().try_for_each(|window| self.check(window))?;
        Ok(encoding)
    }

    fn check(&self, encoding: &Encoding) -> Result<(), TaskProblem> {
        let DebertaV2Config { vocab_size, max_position_embeddings: limit, position_biased_input, .. } = *self.config();
        let absolute = position_biased_input || self.head() == Head::EnhancedMaskedLm;
        if absolute && encoding.len() > limit {
            return Err(TaskProblem::TooLong { tokens: encoding.len(), limit });
        }
        match encoding.ids.iter().position(|&id| id as usize >= vocab_size) {
            Some(at) => {
                let (id, token) = (encoding.ids[at], encoding.tokens[at].clone());
                Err(TaskProblem::NotInVocabulary { token, id, vocab_size })
            }
            None => Ok(()),
        }
    }

    /// Batches of `sequences`, the longest first. `labels` marks tokens of a sequence with a number above 0.
    pub(crate) fn batches<'a>(
        &'a self,
        sequences: &'a [&'a Encoding],
        labels: Option<&'a OfTokens<'a>>,
    ) -> impl Iterator<Item = Batch> + 'a {
        let mut order: Vec<usize> = (0..sequences.len()).collect();
        order.sort_by_key(|&i| std::cmp::Reverse(sequences[i].len()));
        let mut rest = order.into_iter().peekable();
        std::iter::from_fn(move || {
            let longest = sequences[*rest.peek()?].len().max(1);
            let count = (self.batch_tokens / longest).max(1);
            let members: Vec<usize> = rest.by_ref().take(count).collect();
            let inputs = self.inputs(sequences, &members, longest, labels);
            Some(Batch { members, inputs })
        })
    }

    fn inputs(
        &self,
        sequences: &[&Encoding],
        members: &[usize],
        length: usize,
        labels: Option<&OfTokens<'_>>,
    ) -> Inputs<f32> {
        let filled = |fill: i64, of: &OfTokens<'_>| {
            let mut rows = Array2::from_elem((members.len(), length), fill);
            for (mut row, &member) in rows.rows_mut().into_iter().zip(members) {
                row.iter_mut().zip(of(sequences[member])).for_each(|(place, value)| *place = value);
            }
            match self.head() {
                Head::MultipleChoice => rows.insert_axis(Axis(1)).into_dyn(),
                _ => rows.into_dyn(),
            }
        };
        let wide = |values: &[u32]| values.iter().map(|&v| i64::from(v)).collect();
        Inputs {
            input_ids: Some(filled(self.tokenizer.pad_token_id().into(), &|e| wide(&e.ids))),
            attention_mask: Some(filled(0, &|e| wide(&e.attention_mask))),
            token_type_ids: Some(filled(0, &|e| wide(&e.type_ids))),
            labels: labels.map(|labels| Labels::Int(filled(0, labels))),
            ..Inputs::default()
        }
    }

    /// A forward pass.
    pub(crate) fn forward(&self, batch: &Batch) -> Result<Outputs<f32>, TaskError> {
        self.forward_traced(batch, &mut Trace::off())
    }

    pub(crate) fn forward_traced(&self, batch: &Batch, trace: &mut Trace<'_, f32>) -> Result<Outputs<f32>, TaskError> {
        match &self.model {
            Placed::Cpu(model) => {
                let outputs = model.forward(&batch.inputs, Keep::default(), trace);
                outputs.map_err(|source| Error::Model { path: self.path.clone(), source }.into())
            }
            #[cfg(feature = "cuda")]
            Placed::Gpu(model) => {
                let outputs = model.forward(&batch.inputs, Keep::default(), trace);
                outputs.map_err(|error| Error::from(error).into())
            }
        }
    }

    /// The logits of every sequence, padding cut off along the axis of the tokens if they have one, in the order of
    /// `sequences`.
    pub(crate) fn logits(&self, sequences: &[&Encoding]) -> Result<Vec<ArrayD<f32>>, TaskError> {
        let mut all = vec![ArrayD::default(ndarray::IxDyn(&[0])); sequences.len()];
        for batch in self.batches(sequences, None) {
            let logits = self.forward(&batch)?.logits.expect("a head with classes has logits");
            for (row, &member) in logits.outer_iter().zip(&batch.members) {
                all[member] = row.to_owned();
            }
        }
        Ok(all)
    }
}
