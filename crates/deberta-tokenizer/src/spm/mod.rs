//! SentencePiece: a model file, text to pieces, pieces to text.
//!
//! The algorithm is SentencePiece's own to the last bit of its scores, since the ids depend on it; the tests hold it
//! equal to the C++ library. It is written here because through the library, whose only interface from Rust is a
//! serialized message, encoding runs at two thirds of the library's own speed, and because the library trusts the
//! model file.

mod char_map;
mod decode;
mod file;
mod normalizer;
mod proto;
mod unigram;
mod word;

use file::Entry;
pub(crate) use file::{ModelFile, Pieces};
pub(crate) use normalizer::SPACE;
use normalizer::{Normalized, Normalizer};
use proto::NormalizerSpec;
pub use proto::{ModelType, PieceType};
use unigram::Unigram;

/// The longest text that is taken at once, in bytes. Working memory is some 60 bytes for each byte of text, three times
/// that in the fast profiles, so this bounds it to what a machine has.
pub const MAX_TEXT_BYTES: usize = 1 << 26;

/// What is wrong with a SentencePiece model file.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// Not a protobuf message of this type, or cut short.
    #[error("is not a SentencePiece model, or is cut short ({reason})")]
    NotAModel {
        /// What the protobuf reader said.
        reason: String,
    },
    /// A kind of model that no DeBERTa uses.
    #[error("is a SentencePiece model of type {found}, but DeBERTa's tokenizer is a unigram model")]
    WrongType {
        /// BPE, CHAR, or the number that stands in the file.
        found: String,
    },
    /// There is no piece for what no piece covers.
    #[error("has no piece of type UNKNOWN, which stands for text that no piece covers")]
    NoUnknown,
    /// A piece that breaks a rule.
    #[error("has a bad piece {id}, {piece:?}: {reason}")]
    BadPiece {
        /// Its place in the file.
        id: usize,
        /// What it reads.
        piece: String,
        /// The rule it breaks.
        reason: &'static str,
    },
    /// Byte fallback needs all 256.
    #[error("falls back on bytes, but has no piece for the byte 0x{byte:02X}")]
    MissingByte {
        /// The first one missing.
        byte: u8,
    },
    /// Nothing to cut text into.
    #[error("has no piece that text could be cut into")]
    Empty,
    /// The character map of the normalizer does not hold together.
    #[error("has a broken character map: it {reason}")]
    BrokenCharMap {
        /// How.
        reason: &'static str,
    },
}

/// A piece of an encoded text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpmPiece {
    /// Its id.
    pub id: u32,
    /// What it reads: the vocabulary's entry, or, for the unknown piece, the text it stands for.
    pub piece: String,
    /// The bytes `start..end` of the original that it came from; see [`SentencePiece::encode`].
    pub start: usize,
    /// See `start`.
    pub end: usize,
}

/// An id and the bytes `start..end` of the normalized text that it covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    id: u32,
    start: usize,
    end: usize,
}

/// A SentencePiece model.
pub struct SentencePiece {
    pieces: Pieces,
    normalizer: Normalizer,
    denormalizer: Option<Normalizer>,
    cutter: Cutter,
    unknown_id: u32,
    /// By byte, where the model falls back on bytes.
    byte_ids: Option<Box<[u32; 256]>>,
    unknown_surface: String,
}

enum Cutter {
    Unigram(Unigram),
    Word { space_is_suffix: bool, allow_spaces_only: bool },
}

impl SentencePiece {
    /// Reads a model from the bytes of its file.
    pub fn read(bytes: &[u8]) -> Result<Self, ModelError> {
        let file = ModelFile::read(bytes)?;
        let cutter = file.cutter()?;
        let of_type = |(piece, kind, _): &Entry| (*kind == PieceType::UserDefined).then(|| piece.clone());
        let user_defined = file.pieces.entries.iter().filter_map(of_type).collect();
        let normalizer = |spec: &NormalizerSpec, space_is_suffix, user_defined| {
            Normalizer::new(spec, space_is_suffix, user_defined).map_err(broken_char_map)
        };
        Ok(Self {
            normalizer: normalizer(&file.normalizer, file.trainer.treat_whitespace_as_suffix(), user_defined)?,
            denormalizer: file
                .denormalizer
                .filter(|spec| !spec.precompiled_charsmap().is_empty())
                .map(|spec| normalizer(&spec, false, Vec::new()))
                .transpose()?,
            unknown_surface: file.trainer.unk_surface().to_owned(),
            pieces: file.pieces,
            unknown_id: file.unknown_id,
            byte_ids: file.byte_ids,
            cutter,
        })
    }

    /// The number of pieces.
    pub fn len(&self) -> usize {
        self.pieces.entries.len()
    }

    /// Never: a model has at least an unknown piece.
    pub fn is_empty(&self) -> bool {
        self.pieces.entries.is_empty()
    }

    /// What a piece reads.
    pub fn piece(&self, id: u32) -> Option<&str> {
        self.pieces.entries.get(id as usize).map(|(piece, ..)| piece.as_str())
    }

    /// The type of a piece.
    pub fn piece_type(&self, id: u32) -> Option<PieceType> {
        self.pieces.entries.get(id as usize).map(|(_, kind, _)| *kind)
    }

    /// The natural logarithm of a piece's probability, as the file has it.
    pub fn score(&self, id: u32) -> Option<f32> {
        self.pieces.entries.get(id as usize).map(|(_, _, score)| *score)
    }

    /// The id of a piece.
    pub fn id(&self, piece: &str) -> Option<u32> {
        self.pieces.id(piece)
    }

    pub(crate) fn pieces(&self) -> &Pieces {
        &self.pieces
    }

    /// The id of the unknown piece.
    pub fn unknown_id(&self) -> u32 {
        self.unknown_id
    }

    /// Whether text that no piece covers becomes one piece a byte.
    pub fn byte_fallback(&self) -> bool {
        self.byte_ids.is_some()
    }

    /// What `text` becomes before it is cut.
    pub fn normalize(&self, text: &str) -> String {
        self.normalizer.normalize(text).text
    }

    /// Cuts a text into pieces, with the bytes of it that each came from.
    ///
    /// A piece's bytes run from where the first byte of its normalized text came from to where the last one's ends.
    /// A `▁` came from the white space it stands for, all of the run. The `▁` that is put in front of every text came from
    /// the white space in front; where there is none it came from nothing, and the piece starts with the next character,
    /// even where the `▁` is alone. Pieces that came from one character, as the bytes of byte fallback or the dots of an
    /// ellipsis do, all have that character.
    pub fn encode(&self, text: &str) -> Vec<SpmPiece> {
        let normalized = self.normalizer.normalize(text);
        let spans = self.cut(&normalized.text);
        let mut pieces: Vec<SpmPiece> = Vec::with_capacity(spans.len());
        let mut after_unknown = false;
        for span in spans {
            let (start, end) = origin(&normalized, span);
            let unknown = span.id == self.unknown_id;
            let read = &normalized.text[span.start..span.end];
            match (unknown, &self.byte_ids, pieces.last_mut()) {
                (true, Some(byte_ids), _) => pieces.extend(read.bytes().map(|byte| {
                    let id = byte_ids[usize::from(byte)];
                    SpmPiece { id, piece: self.pieces.entries[id as usize].0.clone(), start, end }
                })),
                // A run of unknown characters is one unknown piece.
                (true, None, Some(last)) if after_unknown => {
                    last.piece.push_str(read);
                    last.end = end;
                }
                _ => pieces.push(SpmPiece { id: span.id, piece: read.to_owned(), start, end }),
            }
            after_unknown = unknown;
        }
        pieces
    }

    fn cut(&self, normalized: &str) -> Vec<Span> {
        match &self.cutter {
            Cutter::Unigram(unigram) => unigram.cut(normalized),
            Cutter::Word { space_is_suffix, allow_spaces_only } => {
                let words = word::split(normalized, *space_is_suffix, *allow_spaces_only);
                let id = |r: &std::ops::Range<usize>| self.id(&normalized[r.clone()]).unwrap_or(self.unknown_id);
                words.into_iter().map(|r| Span { id: id(&r), start: r.start, end: r.end }).collect()
            }
        }
    }
}

fn broken_char_map(e: char_map::BrokenCharMap) -> ModelError {
    ModelError::BrokenCharMap { reason: e.0 }
}

/// The bytes of the original that a span of the normalized text came from.
fn origin(normalized: &Normalized, span: Span) -> (usize, usize) {
    let Normalized { origin, leading_space, .. } = normalized;
    let at_front = span.start == 0 && normalized.text.starts_with(SPACE);
    if at_front && *leading_space > 0 && span.end == SPACE.len() {
        return (0, *leading_space);
    }
    let start = if at_front { 0 } else { origin[span.start] };
    let last = origin[span.end - 1];
    let end = origin[span.end..].iter().copied().find(|o| *o > last).unwrap_or(last);
    (start, end)
}
