//! The profile `slow`: `DebertaV2Tokenizer` of transformers 4 around SentencePiece (`tokenization_utils.py`,
//! `PreTrainedTokenizer.tokenize`, and `tokenization_deberta_v2.py`).
//!
//! 1. With `do_lower_case`, the text is lowered, special tokens excepted.
//! 2. Added tokens are set apart; their flags take white space, or undo it where `single_word` is not met.
//! 3. What is between them is cut at punctuation, with `split_by_punct`, and each part by SentencePiece.

use std::collections::{HashMap, HashSet};

use crate::added_tokens::{AddedToken, AddedTokens};
use crate::encoding::Token;
use crate::error::{Result, TokenizerError};
use crate::files::TokenizerFiles;
use crate::mapped::Mapped;
use crate::profile::Profile;
use crate::special_tokens::SpecialTokens;
use crate::spm::{SPACE, SentencePiece, SpmPiece};
use crate::unicode::{CharPositions, is_punctuation, is_python_space};

/// A slow tokenizer.
pub(crate) struct SlowTokenizer {
    pub spm: SentencePiece,
    added: AddedTokens,
    /// What the special tokens read.
    special: HashSet<String>,
    /// What is kept from being lowered, in the order of preference.
    not_lowered: Vec<String>,
    /// Pieces that an added token reads like: they get its id.
    overridden: HashMap<u32, u32>,
    additional: Vec<String>,
    unk_token: String,
    do_lower_case: bool,
    split_by_punct: bool,
    split_special_tokens: bool,
}

impl SlowTokenizer {
    pub fn new(files: &TokenizerFiles, special: &SpecialTokens) -> Result<Self> {
        let model = files.spm_model.as_deref();
        let path = files.path("spm.model");
        let model =
            model.ok_or_else(|| TokenizerError::NeedsSpm { path: files.directory.clone(), profile: Profile::Slow })?;
        let spm = SentencePiece::read(model).map_err(|source| TokenizerError::Model { path, source })?;
        let added = AddedTokens::assign(special, spm.pieces());
        let special_texts: Vec<String> = special.all().iter().map(|t| t.content().to_owned()).collect();
        let plain = added.tokens().map(|(_, t)| t).filter(|t| !t.special && t.is_normalized());
        let plain: Vec<String> = plain.map(|t| t.content.clone()).collect();
        let overridden =
            added.iter().filter_map(|(text, id)| Some((spm.id(text)?, id))).filter(|(a, b)| a != b).collect();
        Ok(Self {
            added,
            overridden,
            special: special_texts.iter().cloned().collect(),
            not_lowered: special_texts.into_iter().chain(plain).filter(|t| !t.is_empty()).collect(),
            additional: special.additional.iter().flatten().map(|t| t.content().to_owned()).collect(),
            unk_token: special.named("unk_token").map_or_else(String::new, |t| t.content().to_owned()),
            do_lower_case: files.flag("do_lower_case", false)?,
            split_by_punct: files.flag("split_by_punct", false)?,
            split_special_tokens: files.flag("split_special_tokens", false)?,
            spm,
        })
    }

    /// The text's tokens.
    pub fn tokenize(&self, text: &str, add_prefix_space: bool) -> Vec<Token> {
        let mut whole = Mapped::whole(text);
        if add_prefix_space {
            whole = whole.prefixed(' ');
        }
        if self.do_lower_case {
            whole = self.lower(&whole);
        }
        let positions = CharPositions::new(text);
        let mut out = Tokens { tokens: Vec::new(), positions, words: 0 };
        for part in self.split_added(&whole) {
            match part {
                Part::Added(id, part) => out.push_word(id, part.text().to_owned(), part.origin(0..part.text().len())),
                Part::Text(part) => self.cut(&part, &mut out),
            }
        }
        out.tokens
    }

    /// Lowers all but what is not to be lowered. Character by character, so that a final Σ becomes σ, as the reference's
    /// pattern has it.
    fn lower<'a>(&self, text: &Mapped<'a>) -> Mapped<'a> {
        let all = text.text();
        let mut parts = Vec::new();
        let (mut done, mut here) = (0, 0);
        while let Some(c) = all[here..].chars().next() {
            let Some(kept) = self.not_lowered.iter().find(|t| all[here..].starts_with(t.as_str())) else {
                here += c.len_utf8();
                continue;
            };
            parts.push(text.slice(done..here).lowered());
            parts.push(text.slice(here..here + kept.len()));
            here += kept.len();
            done = here;
        }
        parts.push(text.slice(done..all.len()).lowered());
        Mapped::concat(parts)
    }

    fn split_added<'a>(&self, text: &Mapped<'a>) -> Vec<Part<'a>> {
        let all = text.text();
        if self.split_special_tokens {
            return vec![Part::Text(text.clone())];
        }
        let cuts = self.added.cuts(all);
        let ends = cuts.iter().copied().chain([all.len()]);
        let bounds: Vec<(usize, usize)> = [0].into_iter().chain(cuts.iter().copied()).zip(ends).collect();
        let parts: Vec<Mapped<'a>> = bounds.into_iter().map(|(start, end)| text.slice(start..end)).collect();
        self.apply_flags(parts)
            .into_iter()
            .filter(|part| !part.text().is_empty())
            .map(|part| match self.added.id(part.text()) {
                Some(id) => Part::Added(id, part),
                None => Part::Text(part),
            })
            .collect()
    }

    /// Lets each added token take the white space beside it, and joins one that is no single word with its neighbour.
    fn apply_flags<'a>(&self, mut parts: Vec<Mapped<'a>>) -> Vec<Mapped<'a>> {
        for i in 0..parts.len() {
            let Some(token) = self.added.id(parts[i].text()).and_then(|id| self.added.get(id)).cloned() else {
                continue;
            };
            let left = i.checked_sub(1).map(|l| parts[l].clone()).filter(|l| !l.text().is_empty());
            let right = parts.get(i + 1).cloned().filter(|r| !r.text().is_empty());
            if let (true, Some(right)) = (token.rstrip, &right) {
                let kept = right.text().trim_start_matches(is_python_space).len();
                parts[i + 1] = right.slice(right.text().len() - kept..right.text().len());
            }
            if let (true, Some(left)) = (token.lstrip, &left) {
                let kept = left.text().trim_end_matches(is_python_space).len();
                parts[i - 1] = left.slice(0..kept);
            }
            if !token.single_word {
                continue;
            }
            let here = parts[i].clone();
            let joined = if left.is_some_and(|l| !l.text().ends_with(' ')) {
                Some((i - 1, Mapped::concat(vec![parts[i - 1].clone(), here])))
            } else if right.is_some_and(|r| !r.text().starts_with(' ')) {
                Some((i + 1, Mapped::concat(vec![here, parts[i + 1].clone()])))
            } else {
                None
            };
            if let Some((place, part)) = joined {
                parts[place] = part;
                parts[i] = Mapped::empty();
            }
        }
        parts
    }

    fn cut(&self, part: &Mapped<'_>, out: &mut Tokens) {
        let part = if self.do_lower_case { &part.lowered() } else { part };
        if self.split_by_punct {
            for word in words_by_punctuation(part.text()) {
                self.push_pieces(&part.slice(word), out);
            }
        } else {
            self.push_pieces(part, out);
        }
    }

    fn push_pieces(&self, part: &Mapped<'_>, out: &mut Tokens) {
        for (i, SpmPiece { mut id, piece, start, end }) in self.spm.encode(part.text()).into_iter().enumerate() {
            if id == self.spm.unknown_id() {
                // The reference looks every piece up by what it reads, and an unknown one may read like a control piece.
                id = self.added.id(&piece).or_else(|| self.spm.id(&piece)).unwrap_or(id);
            } else if let Some(other) = self.overridden.get(&id) {
                id = *other;
            }
            let starts_word = i == 0 || piece.starts_with(SPACE);
            out.push(id, piece, part.origin(start..end), starts_word);
        }
    }

    pub fn vocab_size(&self) -> usize {
        self.spm.pieces().different()
    }

    /// The number of different tokens, added ones included.
    pub fn len(&self) -> usize {
        self.added.vocabulary_size(self.spm.pieces())
    }

    /// The token of an id. An id beyond them all reads as the unknown token.
    pub fn token(&self, id: u32) -> &str {
        let added = self.added.get(id).map(|t| t.content.as_str());
        added.or_else(|| self.spm.piece(id)).unwrap_or(&self.unk_token)
    }

    /// The id of a token, the unknown piece's where there is none.
    pub fn id(&self, token: &str) -> u32 {
        self.known_id(token).unwrap_or(self.spm.unknown_id())
    }

    pub fn known_id(&self, token: &str) -> Option<u32> {
        self.added.id(token).or_else(|| self.spm.id(token))
    }

    pub fn is_special(&self, id: u32) -> bool {
        self.special.contains(self.token(id))
    }

    pub fn added_tokens(&self) -> impl Iterator<Item = (u32, &AddedToken)> {
        self.added.tokens()
    }

    /// What is cut into pieces, after all normalization, the parts joined by `|`.
    pub fn normalize(&self, text: &str) -> String {
        let mut whole = Mapped::whole(text);
        if self.do_lower_case {
            whole = self.lower(&whole);
        }
        let parts = self.split_added(&whole).into_iter().map(|part| match part {
            Part::Added(_, part) => part.text().to_owned(),
            Part::Text(part) => self.spm.normalize(part.text()),
        });
        parts.collect::<Vec<_>>().join("|")
    }

    /// Ids to text (`PreTrainedTokenizer._decode`, `SPMTokenizer.decode`).
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> String {
        let mut parts: Vec<String> = Vec::new();
        let mut pieces: Vec<&str> = Vec::new();
        for &id in ids {
            let token = self.token(id);
            if skip_special_tokens && self.special.contains(token) {
                continue;
            }
            let stands_alone = self.added.id(token).is_some()
                && (!self.special.contains(token)
                    || (self.additional.iter().any(|t| t == token) && self.id(token) as usize >= self.spm.len()));
            if !stands_alone {
                pieces.push(token);
                continue;
            }
            if !pieces.is_empty() {
                let text = self.join(&pieces);
                parts.extend(Some(text).filter(|t| !t.is_empty()));
                pieces.clear();
            }
            parts.push(token.to_owned());
        }
        if !pieces.is_empty() {
            parts.push(self.join(&pieces));
        }
        parts.join(" ")
    }

    /// Special tokens as they read, a space before the first of a run; the pieces between them by SentencePiece
    /// (`SPMTokenizer.decode`).
    pub fn join<S: AsRef<str>>(&self, tokens: &[S]) -> String {
        let mut text = String::new();
        let mut pieces = Vec::new();
        let mut after_special = false;
        for token in tokens {
            let token = token.as_ref();
            if !self.special.contains(token) {
                pieces.push(self.spm.id(token).unwrap_or(self.spm.unknown_id()));
                after_special = false;
                continue;
            }
            if !after_special {
                text.push(' ');
            }
            text.push_str(&self.spm.decode(&pieces));
            text.push_str(token);
            pieces.clear();
            after_special = true;
        }
        text.push_str(&self.spm.decode(&pieces));
        text.trim_matches(is_python_space).to_owned()
    }
}

enum Part<'a> {
    Added(u32, Mapped<'a>),
    Text(Mapped<'a>),
}

/// The tokens so far, with their places in characters and words counted.
struct Tokens {
    tokens: Vec<Token>,
    positions: CharPositions,
    words: u32,
}

impl Tokens {
    fn push(&mut self, id: u32, text: String, bytes: (usize, usize), starts_word: bool) {
        self.words += u32::from(starts_word);
        let word = Some(self.words.saturating_sub(1));
        self.tokens.push(Token { id, text, bytes, chars: self.positions.chars(bytes), word });
    }

    fn push_word(&mut self, id: u32, text: String, bytes: (usize, usize)) {
        self.push(id, text, bytes, true);
    }
}

/// Each punctuation character alone, and the runs between them.
fn words_by_punctuation(text: &str) -> Vec<std::ops::Range<usize>> {
    let mut words: Vec<std::ops::Range<usize>> = Vec::new();
    let mut in_word = false;
    for (start, c) in text.char_indices() {
        let end = start + c.len_utf8();
        let punctuation = is_punctuation(c);
        match words.last_mut() {
            Some(word) if in_word && !punctuation => word.end = end,
            _ => words.push(start..end),
        }
        in_word = !punctuation;
    }
    words
}
