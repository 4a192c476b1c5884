//! The tokenizer of DeBERTa-v2 and v3, identical to each reference implementation.
//!
//! The references disagree: the same `spm.model` gives other ids under transformers 4's slow tokenizer, its fast one, and
//! transformers 5's. A [`Profile`] says which one to be identical to.
//!
//! ```no_run
//! use deberta_tokenizer::{EncodeOptions, Profile, Tokenizer};
//!
//! let tokenizer = Tokenizer::from_directory("deberta-v3-base".as_ref(), Some(Profile::Slow))?;
//! let encoding = tokenizer.encode("Text in, ids out.", &EncodeOptions::default())?;
//! assert_eq!(encoding.len(), encoding.offsets.len());
//! println!("{:?}", tokenizer.decode(&encoding.ids, true)?);
//! # Ok::<(), deberta_tokenizer::TokenizerError>(())
//! ```

mod added_tokens;
mod encoding;
mod error;
mod explain;
mod fast;
mod files;
mod mapped;
mod profile;
mod slow;
mod special_tokens;
pub mod spm;
mod tokenizer;
mod truncation;
mod unicode;

pub use added_tokens::AddedToken;
pub use encoding::{EncodeOptions, Encoding, PadTo, Padding, Side, Truncation, TruncationStrategy, pad};
pub use error::{Result, TokenizerError};
pub use explain::{Difference, ExplainedToken, Explanation, TokenKind, View, explain};
pub use files::TokenizerFiles;
pub use profile::{Profile, UnknownProfile};
pub use tokenizer::{Input, Tokenizer};
