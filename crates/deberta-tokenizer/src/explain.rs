//! One text under several profiles side by side, and where they part.

use crate::encoding::{EncodeOptions, Encoding};
use crate::error::Result;
use crate::profile::Profile;
use crate::tokenizer::Tokenizer;

/// What kind of token it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// A piece of the vocabulary.
    Piece,
    /// One byte of a character that no piece covers.
    Byte,
    /// What no piece covers, as the unknown token.
    Unknown,
    /// A special or added token that stands in the text.
    Added,
}

impl TokenKind {
    /// Its name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Piece => "piece",
            Self::Byte => "byte",
            Self::Unknown => "unknown",
            Self::Added => "added",
        }
    }
}

/// A token of the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExplainedToken {
    /// Its id.
    pub id: u32,
    /// What it reads.
    pub token: String,
    /// The characters of the text it came from.
    pub offsets: (usize, usize),
    /// What kind it is.
    pub kind: TokenKind,
}

/// What one profile makes of the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// The profile.
    pub profile: Profile,
    /// The text as it is cut.
    pub normalized: String,
    /// Without special tokens around them.
    pub tokens: Vec<ExplainedToken>,
}

/// A stretch of the text that the profiles cut into different ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Its characters.
    pub chars: (usize, usize),
    /// What it reads.
    pub text: String,
    /// By profile, in the order of the views: the first token of it and the one behind the last.
    pub tokens: Vec<(usize, usize)>,
}

/// A text under several profiles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The text.
    pub text: String,
    /// One a profile.
    pub views: Vec<View>,
    /// Where the ids differ, from left to right; empty where they are the same.
    pub differences: Vec<Difference>,
}

/// Takes a text through each of the tokenizers.
///
/// # Errors
/// As [`Tokenizer::encode`].
pub fn explain(tokenizers: &[Tokenizer], text: &str) -> Result<Explanation> {
    let views = tokenizers.iter().map(|t| view(t, text)).collect::<Result<Vec<View>>>()?;
    let differences = differences(text, &views);
    Ok(Explanation { text: text.to_owned(), views, differences })
}

fn view(tokenizer: &Tokenizer, text: &str) -> Result<View> {
    let options = EncodeOptions { add_special_tokens: false, ..EncodeOptions::default() };
    let Encoding { ids, tokens, offsets, .. } = tokenizer.encode(text, &options)?;
    let added: Vec<u32> = tokenizer.added_tokens().into_iter().map(|(id, _)| id).collect();
    let kind = |id: u32, token: &str| {
        let reads = tokenizer.convert_ids_to_tokens(&[id]).remove(0).unwrap_or_default();
        if reads != token {
            TokenKind::Unknown
        } else if added.contains(&id) {
            TokenKind::Added
        } else if tokenizer.is_byte(id) {
            TokenKind::Byte
        } else {
            TokenKind::Piece
        }
    };
    let tokens = ids.into_iter().zip(tokens).zip(offsets).map(|((id, token), offsets)| {
        let kind = kind(id, &token);
        ExplainedToken { id, token, offsets, kind }
    });
    Ok(View { profile: tokenizer.profile(), normalized: tokenizer.normalize(text)?, tokens: tokens.collect() })
}

/// Cuts the text wherever every profile ends a token that reaches back over nothing, and keeps the stretches with
/// different ids.
fn differences(text: &str, views: &[View]) -> Vec<Difference> {
    let ends: Vec<Vec<(usize, usize)>> = views.iter().map(|v| clean_ends(&v.tokens)).collect();
    let Some((first, others)) = ends.split_first() else { return Vec::new() };
    let find = |list: &[(usize, usize)], at| list.iter().find(|(end, _)| *end == at).map(|(_, count)| *count);
    let length = text.chars().count();
    let mut cuts: Vec<(usize, Vec<usize>)> = Vec::new();
    for &(at, count) in first {
        let counts: Option<Vec<usize>> = others.iter().map(|list| find(list, at)).collect();
        cuts.extend(counts.map(|c| (at, [vec![count], c].concat())));
    }
    // What is left behind the last common end.
    cuts.push((length, views.iter().map(|v| v.tokens.len()).collect()));
    let mut differences = Vec::new();
    let (mut start, mut from) = (0, vec![0; views.len()]);
    for (end, to) in cuts {
        let ids = |v: usize| views[v].tokens[from[v]..to[v]].iter().map(|t| t.id);
        if (1..views.len()).any(|v| ids(v).ne(ids(0))) {
            let stretch = text.chars().skip(start).take(end - start).collect();
            let tokens = from.iter().copied().zip(to.iter().copied()).collect();
            differences.push(Difference { chars: (start, end), text: stretch, tokens });
        }
        (start, from) = (end, to);
    }
    differences
}

/// The places where all tokens before end and none after starts earlier, with the number of tokens before.
fn clean_ends(tokens: &[ExplainedToken]) -> Vec<(usize, usize)> {
    let mut ends = Vec::new();
    let mut earliest = vec![usize::MAX; tokens.len() + 1];
    for (i, token) in tokens.iter().enumerate().rev() {
        earliest[i] = earliest[i + 1].min(token.offsets.0);
    }
    let mut latest = 0;
    for (i, token) in tokens.iter().enumerate() {
        latest = latest.max(token.offsets.1);
        if latest <= earliest[i + 1] {
            ends.push((latest, i + 1));
        }
    }
    ends
}
