//! What a model is asked, checked against its configuration before anything is computed.

mod mask;
mod packing;

use std::ops::Range;

use deberta_ops::Real;
use ndarray::{Array2, ArrayD, ArrayViewD, IxDyn};

use crate::config::DebertaV2Config;
use crate::error::ModelError;
use crate::schema::Head;

pub use mask::AttentionMask;
pub(crate) use packing::Packing;

/// Labels, as whole numbers or as real ones.
#[derive(Clone, Debug, PartialEq)]
pub enum Labels {
    /// Classes, or tokens.
    Int(ArrayD<i64>),
    /// Values or distributions.
    Float {
        /// The numbers, widened.
        values: ArrayD<f64>,
        /// Whether they were `f32`: transformers rounds the logits of a regression to the type of its labels.
        single_precision: bool,
    },
}

impl Labels {
    pub(crate) fn shape(&self) -> &[usize] {
        match self {
            Self::Int(a) => a.shape(),
            Self::Float { values, .. } => values.shape(),
        }
    }

    pub(crate) fn float<T: Real>(&self) -> ArrayD<T> {
        match self {
            Self::Int(a) => a.mapv(|v| T::of(v as f64)),
            Self::Float { values, .. } => values.mapv(T::of),
        }
    }

    /// As whole numbers; real ones are cut towards zero, as `Tensor.long` does.
    pub(crate) fn int(&self) -> ArrayD<i64> {
        match self {
            Self::Int(a) => a.clone(),
            Self::Float { values, .. } => values.mapv(|v| v as i64),
        }
    }
}

/// The inputs of a forward pass, by the names of transformers. Shapes are [B, L] or, for multiple choice, [B, C, L]; a
/// leading axis of one stands for the whole batch where transformers broadcasts it.
#[derive(Clone, Debug, Default)]
pub struct Inputs<T> {
    /// Tokens, [B, L]. Either these or `inputs_embeds`.
    pub input_ids: Option<ArrayD<i64>>,
    /// Embeddings in place of tokens, [B, L, E′].
    pub inputs_embeds: Option<ArrayD<T>>,
    /// Which tokens exist, [B, L] or [B, 1, 1, L], or which key each query may attend to, [B, L, L] or [B, 1, L, L].
    /// Zeros and ones. Absent: all ones.
    pub attention_mask: Option<ArrayD<i64>>,
    /// The mask of the enhanced mask decoder's passes, in any of these shapes. Absent: that of the encoder. (Microsoft's
    /// `MaskedLanguageModel.forward` calls the encoder's mask `input_mask` and this one `attention_mask`.)
    pub decoder_attention_mask: Option<ArrayD<i64>>,
    /// Token types, [B, L]. Absent: zeros. Ignored where the model has no token types.
    pub token_type_ids: Option<ArrayD<i64>>,
    /// Absolute positions, [B, L] or [1, L]. Absent: 0, 1, ….
    pub position_ids: Option<ArrayD<i64>>,
    /// What the loss compares with; see the heads for the shapes.
    pub labels: Option<Labels>,
    /// Where the answers begin, \[B\].
    pub start_positions: Option<ArrayD<i64>>,
    /// Where the answers end, \[B\].
    pub end_positions: Option<ArrayD<i64>>,
}

/// Inputs after checking, with rows for tokens: [B·L] wherever transformers has [B, L].
#[derive(Clone, Debug)]
pub struct Batch<T> {
    /// B, the number of sequences; each choice of a question is one.
    pub size: usize,
    /// L, their length, padding included.
    pub length: usize,
    /// The choices of a question, for multiple choice.
    pub choices: Option<usize>,
    /// What the embeddings begin with.
    pub tokens: Tokens<T>,
    /// The mask of the encoder.
    pub mask: AttentionMask,
    /// The mask of the enhanced mask decoder, where it is another one.
    pub decoder_mask: Option<AttentionMask>,
    /// [B·L]
    pub token_types: Vec<usize>,
    /// [B·L]
    pub positions: Vec<usize>,
    /// Whether one row of positions serves every sequence; PyTorch's intermediates then have one.
    pub(crate) positions_shared: bool,
    /// The rows of each sequence.
    pub(crate) sequences: Vec<Range<usize>>,
}

/// What the embeddings begin with.
#[derive(Clone, Debug)]
pub enum Tokens<T> {
    /// Rows of the word embeddings, [B·L].
    Ids(Vec<usize>),
    /// Rows in their place, [B·L, E′].
    Embeds(Array2<T>),
}

impl<T: Real> Batch<T> {
    /// Checks the inputs of a model of `config` under `head`. For multiple choice the first two axes of every input are
    /// joined.
    ///
    /// # Errors
    /// Inputs that do not fit the model or one another; each error names the input.
    pub fn new(config: &DebertaV2Config, head: Head, inputs: &Inputs<T>) -> Result<Self, ModelError> {
        let choices = (head == Head::MultipleChoice).then(|| choices(inputs)).transpose()?;
        let mut batch = Self::joined(config, inputs, choices)?;
        if head == Head::EnhancedMaskedLm {
            batch.give_rows_to_the_decoder();
            if !config.position_biased_input {
                batch.check_decoder_positions(config)?;
            }
        }
        Ok(batch)
    }

    fn joined(config: &DebertaV2Config, inputs: &Inputs<T>, choices: Option<usize>) -> Result<Self, ModelError> {
        let flatten = choices.is_some();
        let join = |name, a: &ArrayD<i64>| if flatten { join_choices(name, a) } else { Ok(a.clone()) };
        let (tokens, size, length) = tokens(config, inputs, flatten)?;
        let mask_of =
            |name: &'static str, mask: &ArrayD<i64>| AttentionMask::new(name, join(name, mask)?.view(), size, length);
        let mask = inputs.attention_mask.as_ref().map(|m| mask_of("attention_mask", m)).transpose()?;
        let mask = mask.unwrap_or_else(|| AttentionMask::all(size, length));
        let decoder_mask = inputs.decoder_attention_mask.as_ref();
        let decoder_mask = decoder_mask.map(|m| mask_of("decoder_attention_mask", m)).transpose()?;
        let token_types = match &inputs.token_type_ids {
            Some(ids) if config.type_vocab_size > 0 => {
                let ids = join("token_type_ids", ids)?;
                indices("token_type_ids", ids.view(), size, length, "type_vocab_size", config.type_vocab_size)?
            }
            _ => vec![0; size * length],
        };
        let limit = config.max_position_embeddings;
        let positions = match &inputs.position_ids {
            Some(ids) => {
                let ids = join("position_ids", ids)?;
                // Where no position is ever looked up, any number will do.
                let bound = if config.position_biased_input { limit } else { usize::MAX };
                indices("position_ids", ids.view(), size, length, "max_position_embeddings", bound)?
            }
            None => {
                if config.position_biased_input && length > limit {
                    return Err(too_long(length, limit));
                }
                (0..size).flat_map(|_| 0..length).collect()
            }
        };
        let positions_shared = inputs.position_ids.as_ref().is_none_or(|ids| !flatten && ids.shape()[0] == 1);
        let sequences = (0..size).map(|b| b * length..(b + 1) * length).collect();
        Ok(Self {
            size,
            length,
            choices,
            tokens,
            mask,
            decoder_mask,
            token_types,
            positions,
            positions_shared,
            sequences,
        })
    }
}

impl<T> Batch<T> {
    /// Under the enhanced mask decoder a mask with a row a query is the decoder's, and the encoder takes the tokens
    /// that exist, as Microsoft's `MaskedLanguageModel` never shows its encoder more than those.
    fn give_rows_to_the_decoder(&mut self) {
        if let Some(tokens) = self.mask.without_rows() {
            let rows = std::mem::replace(&mut self.mask, tokens);
            self.decoder_mask.get_or_insert(rows);
        }
    }

    /// The decoder adds rows of the position table to hidden states: they must exist, and be as wide.
    fn check_decoder_positions(&self, config: &DebertaV2Config) -> Result<(), ModelError> {
        let (width, limit) = (config.embedding_width(), config.max_position_embeddings);
        if width != config.hidden_size {
            return Err(ModelError::Unsupported {
                reason: format!(
                    "the enhanced mask decoder adds position embeddings to hidden states, so `embedding_size`, {width}, \
                     must be `hidden_size`, {}; the reference fails here too",
                    config.hidden_size
                ),
            });
        }
        let Some(at) = self.positions.iter().position(|&p| p >= limit) else {
            return Ok(());
        };
        if self.length > limit {
            return Err(too_long(self.length, limit));
        }
        Err(ModelError::Value {
            input: "position_ids",
            found: self.positions[at].to_string(),
            index: vec![at / self.length, at % self.length],
            reason: format!("it must be below `max_position_embeddings`, {limit}"),
        })
    }
}

/// The number of choices a sequence has, from the second axis of its tokens.
fn choices<T>(inputs: &Inputs<T>) -> Result<usize, ModelError> {
    let (input, found) = match (&inputs.input_ids, &inputs.inputs_embeds) {
        (Some(ids), _) => ("input_ids", ids.shape()),
        (None, Some(embeds)) => ("inputs_embeds", embeds.shape()),
        (None, None) => return Ok(1),
    };
    match found {
        [_, choices, _, ..] if *choices > 0 => Ok(*choices),
        _ => Err(shape(input, "[B, C, L], one sequence a choice", found)),
    }
}

/// More tokens than a table of absolute positions has rows.
fn too_long(length: usize, limit: usize) -> ModelError {
    ModelError::Shape {
        input: "input_ids",
        expected: format!("at most {limit} tokens, as absolute positions end at `max_position_embeddings`"),
        found: vec![length],
    }
}

fn tokens<T: Real>(
    config: &DebertaV2Config,
    inputs: &Inputs<T>,
    flatten: bool,
) -> Result<(Tokens<T>, usize, usize), ModelError> {
    match (&inputs.input_ids, &inputs.inputs_embeds) {
        (Some(_), Some(_)) => Err(ModelError::Missing {
            input: "input_ids",
            reason: "give either `input_ids` or `inputs_embeds`, not both",
        }),
        (None, None) => Err(ModelError::Missing { input: "input_ids", reason: "a forward pass needs tokens" }),
        (Some(ids), None) => {
            let ids = if flatten { join_choices("input_ids", ids)? } else { ids.clone() };
            let &[size, length] = ids.shape() else {
                return Err(shape("input_ids", "[B, L]", ids.shape()));
            };
            not_empty("input_ids", ids.shape())?;
            let rows = indices("input_ids", ids.view(), size, length, "vocab_size", config.vocab_size)?;
            Ok((Tokens::Ids(rows), size, length))
        }
        (None, Some(embeds)) => {
            let embeds = if flatten { join_choices("inputs_embeds", embeds)? } else { embeds.clone() };
            let width = config.embedding_width();
            match *embeds.shape() {
                [size, length, found] if found == width => {
                    not_empty("inputs_embeds", embeds.shape())?;
                    let rows = rows(embeds, size * length, width);
                    Ok((Tokens::Embeds(rows), size, length))
                }
                _ => Err(shape("inputs_embeds", format!("[B, L, {width}]"), embeds.shape())),
            }
        }
    }
}

fn rows<T: Real>(array: ArrayD<T>, count: usize, width: usize) -> Array2<T> {
    array.as_standard_layout().into_owned().into_shape_with_order((count, width)).expect("as many elements as before")
}

pub(crate) fn shape(input: &'static str, expected: impl Into<String>, found: &[usize]) -> ModelError {
    ModelError::Shape { input, expected: expected.into(), found: found.to_vec() }
}

fn not_empty(input: &'static str, found: &[usize]) -> Result<(), ModelError> {
    if found.contains(&0) { Err(shape(input, "at least one sequence of at least one token", found)) } else { Ok(()) }
}

/// [B, C, …] → [B·C, …].
fn join_choices<A: Clone>(input: &'static str, array: &ArrayD<A>) -> Result<ArrayD<A>, ModelError> {
    if array.ndim() < 3 {
        return Err(shape(input, "[B, C, L], one sequence a choice", array.shape()));
    }
    let mut joined = vec![array.shape()[0] * array.shape()[1]];
    joined.extend(&array.shape()[2..]);
    let rows = array.as_standard_layout().into_owned().into_shape_with_order(IxDyn(&joined));
    Ok(rows.expect("as many elements as before"))
}

/// Checks that `ids` is [B, L] or [1, L] with entries in 0 … `bound` − 1, and lays them out as [B·L].
fn indices(
    input: &'static str,
    ids: ArrayViewD<'_, i64>,
    size: usize,
    length: usize,
    field: &str,
    bound: usize,
) -> Result<Vec<usize>, ModelError> {
    let Some(wide) = (ids.ndim() == 2).then(|| ids.broadcast(IxDyn(&[size, length]))).flatten() else {
        return Err(shape(input, format!("[{size}, {length}]"), ids.shape()));
    };
    wide.indexed_iter()
        .map(|(at, &id)| {
            usize::try_from(id).ok().filter(|&id| id < bound).ok_or_else(|| ModelError::Value {
                input,
                found: id.to_string(),
                index: vec![at[0], at[1]],
                reason: format!("it must be at least 0 and below `{field}`, {bound}"),
            })
        })
        .collect()
}
