//! What a text becomes: ids and all that goes with each.

use crate::error::{Result, TokenizerError};

/// Which end of a text is cut off, or padded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Side {
    /// The front.
    Left,
    /// The end.
    #[default]
    Right,
}

/// Which text of a pair is cut (`TruncationStrategy` in transformers).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TruncationStrategy {
    /// Token by token from the longer text.
    #[default]
    LongestFirst,
    /// The first text alone.
    OnlyFirst,
    /// The second text alone.
    OnlySecond,
}

/// Cut to a length; what is cut off becomes further windows ([`Encoding::overflowing`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Truncation {
    /// The longest result, special tokens included.
    pub max_length: usize,
    /// Which text is cut.
    pub strategy: TruncationStrategy,
    /// How many tokens of a window come again in the next one.
    pub stride: usize,
    /// Which end is cut off.
    pub side: Side,
}

impl Truncation {
    /// To `max_length`, longest first, at the end, no token twice.
    pub fn to(max_length: usize) -> Self {
        Self { max_length, strategy: TruncationStrategy::default(), stride: 0, side: Side::default() }
    }
}

/// How far to pad.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PadTo {
    /// To the longest of the batch.
    #[default]
    Longest,
    /// To this many tokens. What is longer stays as it is.
    Length(usize),
}

/// Fill up with `[PAD]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Padding {
    /// How far.
    pub to: PadTo,
    /// On to the next multiple of this.
    pub multiple_of: Option<usize>,
    /// At which end.
    pub side: Side,
}

/// How to encode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncodeOptions {
    /// Put `[CLS]` and `[SEP]` around the texts.
    pub add_special_tokens: bool,
    /// Cut; `None`: however long it gets.
    pub truncation: Option<Truncation>,
    /// Fill up; `None`: leave it.
    pub padding: Option<Padding>,
    /// Put a space before each text: the argument of that name that transformers 4's slow tokenizer takes at each call.
    /// The other profiles have it as a setting of `tokenizer_config.json` alone, and ignore this.
    pub add_prefix_space: bool,
}

impl Default for EncodeOptions {
    fn default() -> Self {
        Self { add_special_tokens: true, truncation: None, padding: None, add_prefix_space: false }
    }
}

/// An encoded text or pair. All lists are of one length, one entry a token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoding {
    /// The ids, `input_ids` of the model.
    pub ids: Vec<u32>,
    /// 0 for the first text and what frames it, 1 for the second and its `[SEP]`; `token_type_ids` of the model.
    pub type_ids: Vec<u32>,
    /// What each token reads. The unknown token reads as the text it stands for.
    pub tokens: Vec<String>,
    /// The characters (Unicode scalar values) of its text that each token came from; (0, 0) for tokens that were put in.
    pub offsets: Vec<(usize, usize)>,
    /// The same in bytes of UTF-8.
    pub byte_offsets: Vec<(usize, usize)>,
    /// The word of its text that each token is part of; `None` for tokens that were put in.
    pub word_ids: Vec<Option<u32>>,
    /// Which text, 0 or 1, each token came from; `None` for tokens that were put in.
    pub sequence_ids: Vec<Option<u8>>,
    /// 1 for tokens that were put in.
    pub special_tokens_mask: Vec<u32>,
    /// 0 for padding; `attention_mask` of the model.
    pub attention_mask: Vec<u32>,
    /// The windows after this one, where the text was cut. Their own lists of windows are empty.
    pub overflowing: Vec<Encoding>,
}

/// One token of a text, before anything is put around it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    pub id: u32,
    pub text: String,
    pub bytes: (usize, usize),
    pub chars: (usize, usize),
    pub word: Option<u32>,
}

impl Encoding {
    /// The number of tokens.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    pub(crate) fn with_capacity(n: usize) -> Self {
        Self {
            ids: Vec::with_capacity(n),
            type_ids: Vec::with_capacity(n),
            tokens: Vec::with_capacity(n),
            offsets: Vec::with_capacity(n),
            byte_offsets: Vec::with_capacity(n),
            word_ids: Vec::with_capacity(n),
            sequence_ids: Vec::with_capacity(n),
            special_tokens_mask: Vec::with_capacity(n),
            attention_mask: Vec::with_capacity(n),
            overflowing: Vec::new(),
        }
    }

    pub(crate) fn push(&mut self, token: Token, sequence: u8, type_id: u32) {
        self.ids.push(token.id);
        self.type_ids.push(type_id);
        self.tokens.push(token.text);
        self.offsets.push(token.chars);
        self.byte_offsets.push(token.bytes);
        self.word_ids.push(token.word);
        self.sequence_ids.push(Some(sequence));
        self.special_tokens_mask.push(0);
        self.attention_mask.push(1);
    }

    pub(crate) fn push_special(&mut self, id: u32, text: &str, type_id: u32) {
        self.ids.push(id);
        self.type_ids.push(type_id);
        self.tokens.push(text.to_owned());
        self.offsets.push((0, 0));
        self.byte_offsets.push((0, 0));
        self.word_ids.push(None);
        self.sequence_ids.push(None);
        self.special_tokens_mask.push(1);
        self.attention_mask.push(1);
    }

    fn pad(&mut self, length: usize, id: u32, token: &str, side: Side) {
        for window in &mut self.overflowing {
            window.pad(length, id, token, side);
        }
        let missing = length.saturating_sub(self.len());
        fill(&mut self.ids, missing, side, &id);
        fill(&mut self.type_ids, missing, side, &0);
        fill(&mut self.tokens, missing, side, &token.to_owned());
        fill(&mut self.offsets, missing, side, &(0, 0));
        fill(&mut self.byte_offsets, missing, side, &(0, 0));
        fill(&mut self.word_ids, missing, side, &None);
        fill(&mut self.sequence_ids, missing, side, &None);
        fill(&mut self.special_tokens_mask, missing, side, &1);
        fill(&mut self.attention_mask, missing, side, &0);
    }
}

fn fill<T: Clone>(list: &mut Vec<T>, missing: usize, side: Side, with: &T) {
    match side {
        Side::Right => list.extend(std::iter::repeat_n(with.clone(), missing)),
        Side::Left => drop(list.splice(..0, std::iter::repeat_n(with.clone(), missing))),
    }
}

/// Pads a batch in place, windows included, with the token `id`, which reads `token`.
pub fn pad(batch: &mut [Encoding], padding: &Padding, id: u32, token: &str) -> Result<()> {
    let length = match padding.to {
        PadTo::Longest => batch.iter().map(Encoding::len).max().unwrap_or(0),
        PadTo::Length(length) => length,
    };
    let length = match padding.multiple_of {
        Some(0) => return Err(TokenizerError::PadToMultipleOfZero),
        Some(multiple) => length.next_multiple_of(multiple),
        None => length,
    };
    for encoding in batch {
        encoding.pad(length, id, token, padding.side);
    }
    Ok(())
}
