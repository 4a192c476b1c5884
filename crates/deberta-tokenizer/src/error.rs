//! What can go wrong, in words for the user.

use std::path::PathBuf;

use crate::profile::Profile;
use crate::spm::ModelError;

/// Any error of this crate. Each prints as one sentence that says which file or option, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// The model directory is not one.
    #[error("{} is not a directory; give the directory that holds spm.model or tokenizer.json", path.display())]
    NotADirectory {
        /// What was given.
        path: PathBuf,
    },
    /// A hub cache directory with more than one snapshot and nothing to choose by.
    #[error("{} holds {count} snapshots and no refs/main; give one of them", path.display())]
    ManySnapshots {
        /// The cache directory.
        path: PathBuf,
        /// How many.
        count: usize,
    },
    /// No vocabulary at all.
    #[error("{} has neither spm.model nor tokenizer.json, so there is no vocabulary to tokenize with", path.display())]
    NoVocabulary {
        /// The model directory.
        path: PathBuf,
    },
    /// The profile needs `spm.model`.
    #[error("{} has no spm.model, which the profile {profile} needs; use --profile hf-4-fast or hf-5", path.display())]
    NeedsSpm {
        /// The model directory.
        path: PathBuf,
        /// The profile asked for.
        profile: Profile,
    },
    /// A file could not be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file could not be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is not the JSON it should be.
    #[error("{}: {reason}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// `spm.model` is broken or of another kind.
    #[error("{} {source}", path.display())]
    Model {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: ModelError,
    },
    /// The `tokenizers` library refuses what the files describe.
    #[error("{}: the tokenizers library refuses it: {reason}", path.display())]
    Fast {
        /// The file that the tokenizer was made from.
        path: PathBuf,
        /// What the library said.
        reason: String,
    },
    /// The `tokenizers` library failed on a text.
    #[error("the tokenizers library failed: {reason}")]
    Encode {
        /// What the library said.
        reason: String,
    },
    /// A special token without which no input can be built.
    #[error("{}: {token} is null, but every input needs it", path.display())]
    NoSpecialToken {
        /// The model directory.
        path: PathBuf,
        /// Such as `cls_token`.
        token: &'static str,
    },
    /// A text beyond [`crate::spm::MAX_TEXT_BYTES`].
    #[error("a text of {bytes} bytes is longer than the {limit} that are taken at once; split it into lines")]
    TextTooLong {
        /// Its length.
        bytes: usize,
        /// The longest.
        limit: usize,
    },
    /// `max_length` leaves no room.
    #[error("cannot truncate to {max_length} tokens: {needed} are needed{reason}")]
    MaxLengthTooShort {
        /// What was asked for.
        max_length: usize,
        /// The least that works here.
        needed: usize,
        /// What for.
        reason: &'static str,
    },
    /// `stride` must leave each window something new.
    #[error("a stride of {stride} is too long for windows of {window} tokens; it must be shorter")]
    StrideTooLong {
        /// What was asked for.
        stride: usize,
        /// What is left of `max_length` for the truncated text.
        window: usize,
    },
    /// `only_second` without a second text.
    #[error("truncation only_second needs a pair, but one text was given")]
    NoSecondText,
    /// `pad_to_multiple_of` zero.
    #[error("cannot pad to a multiple of 0")]
    PadToMultipleOfZero,
    /// `get_special_tokens_mask` with a formatted list and a second one.
    #[error("a list that already has special tokens comes alone, without a second one")]
    AlreadyFormatted,
}

/// The result of anything here that can fail.
pub type Result<T, E = TokenizerError> = std::result::Result<T, E>;
