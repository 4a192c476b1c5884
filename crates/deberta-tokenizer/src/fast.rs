//! The profiles `hf-4-fast` and `hf-5`: the tokenizers library, set up as transformers sets it up.
//!
//! | | `hf-4-fast` | `hf-5` |
//! |---|---|---|
//! | made from `tokenizer.json`, if there | all of it, as it stands | its vocabulary |
//! | normalizer | lower case, strip, character map, runs of spaces → one | lower case, runs of white space and each line break or tab → one space, NFC, strip at the end |
//! | character map | by grapheme, the shortest string that starts it | none |
//! | byte fallback | none | none |
//! | space in front | always | always, or with `add_prefix_space: false` at the front of the text alone |
//! | unknown id | of the trainer's settings | of the unknown token, if its score is 0, else of the trainer's settings; with `tokenizer.json`, `unk_id` of `tokenizer_config.json`, else 1 |
//!
//! Sources: `convert_slow_tokenizer.py` (`SpmConverter`, `DebertaV2Converter`) and `tokenization_utils_fast.py` of 4.57;
//! `tokenization_deberta_v2.py` and `tokenization_utils_tokenizers.py` of 5.23.

use std::collections::HashMap;

use tokenizers::decoders::DecoderWrapper;
use tokenizers::models::unigram::Unigram;
use tokenizers::normalizers::replace::ReplacePattern;
use tokenizers::normalizers::{Lowercase, NFC, Precompiled, Replace, Sequence, Strip};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::pre_tokenizers::punctuation::Punctuation;
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::tokenizer::{Decoder, Normalizer, SplitDelimiterBehavior};
use tokenizers::{NormalizedString, NormalizerWrapper};

use crate::added_tokens::{AddedToken, AddedTokens};
use crate::encoding::Token;
use crate::error::{Result, TokenizerError};
use crate::files::TokenizerFiles;
use crate::profile::Profile;
use crate::special_tokens::{NAMED, SpecialTokens, TokenSpec};
use crate::spm::{ModelError, ModelFile, ModelType, PieceType, Pieces};
use crate::unicode::byte_positions;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// A tokenizer of the tokenizers library.
pub(crate) struct FastTokenizer {
    inner: tokenizers::Tokenizer,
    unk_id: Option<u32>,
    /// What added tokens read, where that differs from what the library says: its version under transformers 4 says what
    /// they read, the one here what they read normalized.
    contents: HashMap<u32, String>,
}

impl FastTokenizer {
    pub fn new(files: &TokenizerFiles, special: &SpecialTokens, profile: Profile) -> Result<Self> {
        let path = files.path(if files.has_tokenizer_json() { "tokenizer.json" } else { "spm.model" });
        let refused = |e: Error| TokenizerError::Fast { path: path.clone(), reason: e.to_string() };
        let mut inner = match (profile, &files.tokenizer_json) {
            (Profile::Hf5, _) => hf_5(files, special)?,
            (_, Some(json)) => tokenizers::Tokenizer::from_bytes(json).map_err(refused)?,
            (_, None) => hf_4_fast(files, special)?,
        };
        // Options of a call, not of the file.
        inner.with_truncation(None).map_err(refused)?;
        inner.with_padding(None);
        add_tokens(&mut inner, special, profile).map_err(refused)?;
        inner.set_encode_special_tokens(files.flag("split_special_tokens", false)?);
        let unk = special.named("unk_token").map(TokenSpec::content);
        let unk_id = unk.and_then(|t| inner.token_to_id(t));
        let contents = match profile {
            Profile::Hf5 => HashMap::new(),
            _ => inner.get_added_tokens_decoder().into_iter().map(|(id, t)| (id, t.content)).collect(),
        };
        Ok(Self { inner, unk_id, contents })
    }

    /// The text's tokens.
    pub fn tokenize(&self, text: &str) -> Result<Vec<Token>> {
        let encoded = self
            .inner
            .encode_char_offsets(text, false)
            .map_err(|e| TokenizerError::Encode { reason: e.to_string() })?;
        let bytes = byte_positions(text);
        let byte = |char: usize| bytes.as_ref().map_or(char, |b| b[char.min(b.len() - 1)]);
        let lists =
            encoded.get_ids().iter().zip(encoded.get_tokens()).zip(encoded.get_offsets()).zip(encoded.get_word_ids());
        let tokens = lists.map(|(((&id, text), &chars), &word)| {
            let bytes = (byte(chars.0), byte(chars.1));
            Token { id, text: text.clone(), bytes, chars, word }
        });
        Ok(tokens.collect())
    }

    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(false)
    }

    pub fn len(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    pub fn token(&self, id: u32) -> Option<String> {
        self.contents.get(&id).cloned().or_else(|| self.inner.id_to_token(id))
    }

    pub fn known_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    pub fn unk_id(&self) -> Option<u32> {
        self.unk_id
    }

    pub fn is_special(&self, id: u32) -> bool {
        let added = self.inner.get_added_vocabulary();
        self.token(id).is_some_and(|t| added.is_special_token(&t))
    }

    pub fn added_tokens(&self) -> Vec<(u32, AddedToken)> {
        let mut tokens: Vec<(u32, AddedToken)> =
            self.inner.get_added_tokens_decoder().into_iter().map(|(id, t)| (id, from_library(t))).collect();
        tokens.sort_by_key(|(id, _)| *id);
        tokens
    }

    pub fn normalize(&self, text: &str) -> Result<String> {
        let mut normalized = NormalizedString::from(text);
        if let Some(normalizer) = self.inner.get_normalizer() {
            normalizer.normalize(&mut normalized).map_err(|e| TokenizerError::Encode { reason: e.to_string() })?;
        }
        Ok(normalized.get().to_owned())
    }

    /// Ids to text. Ids without a token are passed over.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String> {
        let added = self.inner.get_added_vocabulary();
        let kept = |t: &String| !skip_special_tokens || !added.is_special_token(t);
        self.join(ids.iter().filter_map(|id| self.token(*id)).filter(kept).collect())
    }

    /// Tokens to text, whether they are of the vocabulary or not.
    pub fn join(&self, tokens: Vec<String>) -> Result<String> {
        let failed = |e: Error| TokenizerError::Encode { reason: e.to_string() };
        match self.inner.get_decoder() {
            Some(decoder) => decoder.decode(tokens).map_err(failed),
            None => Ok(tokens.join(" ")),
        }
    }

    /// What the library puts around one text and around a pair: for each token its id, what it reads, its type, and
    /// `Some` of the text it stands for where it is not put in.
    pub fn frame(&self, pair: bool) -> Result<Vec<FrameToken>> {
        let failed = |e: Error| TokenizerError::Encode { reason: e.to_string() };
        let probe = || {
            let token = tokenizers::Token::new(u32::MAX, "probe".to_owned(), (0, 1));
            tokenizers::Encoding::from_tokens(vec![token], 0)
        };
        let framed = self.inner.post_process(probe(), pair.then(probe), true).map_err(failed)?;
        let tokens = (0..framed.len()).map(|i| FrameToken {
            id: framed.get_ids()[i],
            text: framed.get_tokens()[i].clone(),
            type_id: framed.get_type_ids()[i],
            sequence: if framed.get_special_tokens_mask()[i] == 1 { None } else { framed.token_to_sequence(i) },
        });
        Ok(tokens.collect())
    }
}

/// One place of a frame; see [`FastTokenizer::frame`].
pub(crate) struct FrameToken {
    pub id: u32,
    pub text: String,
    pub type_id: u32,
    pub sequence: Option<usize>,
}

fn hf_4_fast(files: &TokenizerFiles, special: &SpecialTokens) -> Result<tokenizers::Tokenizer> {
    let path = files.path("spm.model");
    let refused = |e: Error| TokenizerError::Fast { path: path.clone(), reason: e.to_string() };
    let spm = read_spm(files, Profile::Hf4Fast)?;
    if spm.model_type().ok() != Some(ModelType::Unigram) {
        return Err(TokenizerError::Model { path, source: ModelError::WrongType { found: "WORD".to_owned() } });
    }
    let unk_id = u32::try_from(spm.trainer.unk_id()).ok();
    // The frame has the ids of the slow tokenizer that this one is converted from, and these names whatever the files say.
    let slow = AddedTokens::assign(special, &spm.pieces);
    let id = |token: &str| slow.id(token).or_else(|| spm.pieces.id(token)).or(Some(spm.unknown_id));
    let frame = template(("[CLS]", id("[CLS]")), ("[SEP]", id("[SEP]"))).map_err(refused)?;
    let control = control_pieces(&spm.pieces);
    let mut tokenizer = unigram(vocabulary(spm.pieces), unk_id).map_err(refused)?;
    tokenizer.add_tokens(control).map_err(refused)?;

    let mut steps: Vec<NormalizerWrapper> = Vec::new();
    if files.flag("do_lower_case", false)? {
        steps.push(Lowercase.into());
    }
    steps.push(Strip::new(true, true).into());
    let char_map = spm.normalizer.precompiled_charsmap();
    if !char_map.is_empty() {
        let map = Precompiled::from(char_map).map_err(|e| refused(Box::from(e.to_string())))?;
        steps.push(map.into());
    }
    steps.push(replace(" {2,}", " ").map_err(refused)?);
    finish(&mut tokenizer, steps, files, PrependScheme::Always).map_err(refused)?;
    tokenizer.with_post_processor(Some(frame));
    Ok(tokenizer)
}

fn hf_5(files: &TokenizerFiles, special: &SpecialTokens) -> Result<tokenizers::Tokenizer> {
    let file = if files.has_tokenizer_json() { "tokenizer.json" } else { "spm.model" };
    let path = files.path(file);
    let refused = |e: Error| TokenizerError::Fast { path: path.clone(), reason: e.to_string() };
    let (vocabulary, unk_id, control) = match &files.tokenizer_json {
        Some(json) => (json_vocabulary(files, json)?, unk_id_of_config(files)?, Vec::new()),
        None => {
            let spm = read_spm(files, Profile::Hf5)?;
            let control = control_pieces(&spm.pieces);
            (vocabulary(spm.pieces), spm.trainer.unk_id(), control)
        }
    };
    let unk = special.named("unk_token").map_or("None", TokenSpec::content);
    let unk_id = vocabulary.iter().position(|(t, s)| t == unk && *s == 0.0).or(usize::try_from(unk_id).ok());
    let unk_id = unk_id.and_then(|id| u32::try_from(id).ok());
    let mut tokenizer = unigram(vocabulary, unk_id).map_err(refused)?;

    let mut steps: Vec<NormalizerWrapper> = Vec::new();
    if files.flag("do_lower_case", false)? {
        steps.push(Lowercase.into());
    }
    steps.push(replace(r"\s{2,}|[\n\r\t]", " ").map_err(refused)?);
    steps.push(NFC.into());
    steps.push(Strip::new(false, true).into());
    let prefix = files.flag("add_prefix_space", true)?;
    let scheme = if prefix { PrependScheme::Always } else { PrependScheme::First };
    finish(&mut tokenizer, steps, files, scheme).map_err(refused)?;

    add_tokens(&mut tokenizer, special, Profile::Hf5).map_err(refused)?;
    if special.additional.is_none() {
        let listed = |t: &tokenizers::AddedToken| special.added.iter().any(|(_, a)| a.content == t.content);
        tokenizer.add_tokens(control.into_iter().filter(|t| !listed(t))).map_err(refused)?;
    }
    let named = |name: &str| {
        let token = special.named(name).map_or("None", TokenSpec::content);
        (token.to_owned(), Some(tokenizer.token_to_id(token).unwrap_or(0)))
    };
    let ((cls, cls_id), (sep, sep_id)) = (named("cls_token"), named("sep_token"));
    let frame = template((&cls, cls_id), (&sep, sep_id)).map_err(refused)?;
    tokenizer.with_post_processor(Some(frame));
    Ok(tokenizer)
}

fn read_spm(files: &TokenizerFiles, profile: Profile) -> Result<ModelFile> {
    let model = files.spm_model.as_deref();
    let model = model.ok_or_else(|| TokenizerError::NeedsSpm { path: files.directory.clone(), profile })?;
    ModelFile::read(model).map_err(|source| TokenizerError::Model { path: files.path("spm.model"), source })
}

type Vocabulary = Vec<(String, f64)>;

fn vocabulary(pieces: Pieces) -> Vocabulary {
    pieces.entries.into_iter().map(|(piece, _, score)| (piece, f64::from(score))).collect()
}

/// The control and user-defined pieces, which are set apart in text as added tokens are.
fn control_pieces(pieces: &Pieces) -> Vec<tokenizers::AddedToken> {
    let added = |(piece, kind, _): &(String, PieceType, f32)| match kind {
        PieceType::Control | PieceType::UserDefined => {
            Some(tokenizers::AddedToken::from(piece.as_str(), *kind == PieceType::Control).normalized(false))
        }
        _ => None,
    };
    pieces.entries.iter().filter_map(added).collect()
}

fn json_vocabulary(files: &TokenizerFiles, json: &[u8]) -> Result<Vocabulary> {
    #[derive(serde::Deserialize)]
    struct Json {
        model: ModelOnly,
    }
    #[derive(serde::Deserialize)]
    struct ModelOnly {
        vocab: Vocabulary,
    }
    let parsed: Json = serde_json::from_slice(json).map_err(|e| {
        files.bad("tokenizer.json", format!("is not a unigram tokenizer, whose vocabulary is a list: {e}"))
    })?;
    Ok(parsed.model.vocab)
}

fn unk_id_of_config(files: &TokenizerFiles) -> Result<i32> {
    let Some(value) = files.config.get("unk_id") else { return Ok(1) };
    let id = value.as_i64().and_then(|id| i32::try_from(id).ok());
    id.ok_or_else(|| files.bad("tokenizer_config.json", format!("unk_id is {value}, not an id")))
}

fn unigram(vocabulary: Vocabulary, unk_id: Option<u32>) -> Result<tokenizers::Tokenizer, Error> {
    Ok(tokenizers::Tokenizer::new(Unigram::from(vocabulary, unk_id.map(|id| id as usize), false)?))
}

fn replace(pattern: &str, by: &str) -> Result<NormalizerWrapper, Error> {
    Ok(Replace::new(ReplacePattern::Regex(pattern.to_owned()), by)?.into())
}

fn finish(
    tokenizer: &mut tokenizers::Tokenizer,
    steps: Vec<NormalizerWrapper>,
    files: &TokenizerFiles,
    scheme: PrependScheme,
) -> Result<(), Error> {
    let metaspace = Metaspace::new('▁', scheme, true);
    let mut cuts: Vec<PreTokenizerWrapper> = Vec::new();
    if files.flag("split_by_punct", false)? {
        cuts.push(Punctuation::new(SplitDelimiterBehavior::Isolated).into());
    }
    cuts.push(metaspace.clone().into());
    tokenizer.with_normalizer(Some(Sequence::new(steps)))?;
    tokenizer.with_pre_tokenizer(Some(PreTokenizers::new(cuts)));
    tokenizer.with_decoder(Some(DecoderWrapper::Metaspace(metaspace)));
    Ok(())
}

type Named<'a> = (&'a str, Option<u32>);

fn template(cls: Named<'_>, sep: Named<'_>) -> Result<tokenizers::processors::template::TemplateProcessing, Error> {
    let ids = [cls, sep].into_iter().map(|(token, id)| Ok((token.to_owned(), id.ok_or("a special token has no id")?)));
    let ids = ids.collect::<Result<Vec<(String, u32)>, Error>>()?;
    let (cls, sep) = (cls.0, sep.0);
    let single = vec![format!("{cls}:0"), "$A:0".to_owned(), format!("{sep}:0")];
    let pair = [single.as_slice(), &["$B:1".to_owned(), format!("{sep}:1")]].concat();
    let mut builder = tokenizers::processors::template::TemplateProcessing::builder();
    Ok(builder.try_single(single)?.try_pair(pair)?.special_tokens(ids).build()?)
}

/// Adds what the files add, by id, then the special tokens. The library gives new ones ids in this order, whatever id
/// the files name; one that it has gets the flags given last.
fn add_tokens(tokenizer: &mut tokenizers::Tokenizer, special: &SpecialTokens, profile: Profile) -> Result<(), Error> {
    let mut added = special.added.clone();
    added.sort_by_key(|(id, _)| *id);
    let is_special = |content: &str| match profile {
        Profile::Hf5 => NAMED.iter().any(|(name, _)| special.named(name).is_some_and(|t| t.content() == content)),
        _ => special.all().iter().any(|t| t.content() == content),
    };
    let before = tokenizer.get_added_tokens_decoder();
    let listed = |content: &str| {
        before.values().any(|t| t.content == content) || special.added.iter().any(|(_, t)| t.content == content)
    };
    // transformers 4 looks a token with flags up as such, finds none, and adds it again.
    let again = |t: &TokenSpec| profile != Profile::Hf5 && matches!(t, TokenSpec::Flagged(_));
    let named = special.all().into_iter().filter(|t| again(t) || !listed(t.content())).map(TokenSpec::to_special);
    let added = added.into_iter().map(|(_, t)| AddedToken { special: t.special || is_special(&t.content), ..t });
    let mut tokens: Vec<tokenizers::AddedToken> = added.chain(named).map(to_library).collect();
    if profile != Profile::Hf5 {
        // The library's version under transformers 4 goes on looking for a special token where it first did.
        for i in 0..tokens.len() {
            let same = |t: &&tokenizers::AddedToken| t.special && t.content == tokens[i].content;
            let first = before.values().find(same).or(tokens[..i].iter().find(same)).map(|t| t.normalized);
            tokens[i].normalized = first.unwrap_or(tokens[i].normalized);
        }
    }
    tokenizer.add_tokens(tokens)?;
    Ok(())
}

fn to_library(token: AddedToken) -> tokenizers::AddedToken {
    let normalized = token.is_normalized();
    tokenizers::AddedToken::from(token.content, token.special)
        .single_word(token.single_word)
        .lstrip(token.lstrip)
        .rstrip(token.rstrip)
        .normalized(normalized)
}

fn from_library(token: tokenizers::AddedToken) -> AddedToken {
    AddedToken {
        content: token.content,
        single_word: token.single_word,
        lstrip: token.lstrip,
        rstrip: token.rstrip,
        normalized: Some(token.normalized),
        special: token.special,
    }
}
