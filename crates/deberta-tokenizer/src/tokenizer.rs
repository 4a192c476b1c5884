//! The tokenizer: text to ids and back, under the names of transformers.

use std::path::{Path, PathBuf};

use rayon::prelude::*;

use crate::added_tokens::AddedToken;
use crate::encoding::{EncodeOptions, Encoding, Side, Token, Truncation, pad};
use crate::error::{Result, TokenizerError};
use crate::fast::FastTokenizer;
use crate::files::TokenizerFiles;
use crate::profile::Profile;
use crate::slow::SlowTokenizer;
use crate::special_tokens::{SpecialTokens, TokenSpec};
use crate::spm::{MAX_TEXT_BYTES, PieceType};
use crate::truncation::{OddToken, lengths, windows};

/// A text, or a pair of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input<'a> {
    /// One text.
    Single(&'a str),
    /// Two texts, such as a question and where its answer is.
    Pair(&'a str, &'a str),
}

impl<'a> From<&'a str> for Input<'a> {
    fn from(text: &'a str) -> Self {
        Self::Single(text)
    }
}

impl<'a> From<(&'a str, &'a str)> for Input<'a> {
    fn from((first, second): (&'a str, &'a str)) -> Self {
        Self::Pair(first, second)
    }
}

/// A tokenizer of DeBERTa-v2 or v3.
pub struct Tokenizer {
    profile: Profile,
    backend: Backend,
    single: Frame,
    pair: Frame,
    pad: (u32, String),
    cls_id: u32,
    sep_id: u32,
    mask: Option<String>,
    unk: Option<String>,
    settings: Settings,
    spm_model: Option<Vec<u8>>,
}

enum Backend {
    Slow(Box<SlowTokenizer>),
    Fast(Box<FastTokenizer>),
}

/// What goes around texts, and where the texts go.
struct Frame(Vec<Place>);

enum Place {
    /// All tokens of a text, and their type.
    Text { sequence: usize, type_id: u32 },
    /// A token that is put in.
    Token { id: u32, text: String, type_id: u32 },
}

impl Frame {
    fn added(&self) -> usize {
        self.0.iter().filter(|p| matches!(p, Place::Token { .. })).count()
    }
}

/// What `tokenizer_config.json` says beside the tokens.
#[derive(Clone, Debug)]
struct Settings {
    model_max_length: Option<usize>,
    padding_side: Side,
    truncation_side: Side,
    clean_up_tokenization_spaces: bool,
}

impl Tokenizer {
    /// Loads the tokenizer of a model directory. Without a profile it is `slow` where there is an `spm.model`, and
    /// otherwise `hf-4-fast`, which takes `tokenizer.json` as it stands.
    ///
    /// # Errors
    /// Where files are missing that the profile needs, or are broken; see [`TokenizerError`].
    pub fn from_directory(path: &Path, profile: Option<Profile>) -> Result<Self> {
        Self::from_files(TokenizerFiles::read(path)?, profile)
    }

    /// As [`Self::from_directory`], from files that were read before.
    pub fn from_files(files: TokenizerFiles, profile: Option<Profile>) -> Result<Self> {
        let default = if files.has_spm_model() { Profile::Slow } else { Profile::Hf4Fast };
        let profile = profile.unwrap_or(default);
        let special = SpecialTokens::read(&files, profile)?;
        let backend = match profile {
            Profile::Slow => Backend::Slow(Box::new(SlowTokenizer::new(&files, &special)?)),
            _ => Backend::Fast(Box::new(FastTokenizer::new(&files, &special, profile)?)),
        };
        let named = |name: &'static str| {
            let token = special.named(name).map(TokenSpec::content);
            let token =
                token.ok_or_else(|| TokenizerError::NoSpecialToken { path: files.directory.clone(), token: name })?;
            Ok((backend.id(token), token.to_owned()))
        };
        let (cls, sep, pad) = (named("cls_token")?, named("sep_token")?, named("pad_token")?);
        let (single, pair) = match &backend {
            Backend::Slow(_) => (bert_frame(&cls, &sep, false), bert_frame(&cls, &sep, true)),
            Backend::Fast(fast) => (read_frame(fast, false)?, read_frame(fast, true)?),
        };
        let text = |name| special.named(name).map(|token| token.content().to_owned());
        let (mask, unk) = (text("mask_token"), text("unk_token"));
        let settings = Settings::read(&files)?;
        Ok(Self {
            profile,
            backend,
            single,
            pair,
            pad,
            cls_id: cls.0,
            sep_id: sep.0,
            mask,
            unk,
            settings,
            spm_model: files.spm_model,
        })
    }

    /// The reference that it is identical to.
    pub fn profile(&self) -> Profile {
        self.profile
    }

    /// Encodes one text or a pair.
    ///
    /// # Errors
    /// Where a text is longer than [`MAX_TEXT_BYTES`], or cannot be cut as asked.
    pub fn encode<'a>(&self, input: impl Into<Input<'a>>, options: &EncodeOptions) -> Result<Encoding> {
        let mut encoding = [self.encode_unpadded(input.into(), options)?];
        self.pad(&mut encoding, options)?;
        let [encoding] = encoding;
        Ok(encoding)
    }

    /// Encodes texts or pairs in parallel, on rayon's threads; the result is in their order. Padding to the longest is
    /// to the longest of these.
    pub fn encode_batch(&self, inputs: &[Input<'_>], options: &EncodeOptions) -> Result<Vec<Encoding>> {
        let encode = |input: &Input<'_>| self.encode_unpadded(*input, options);
        let mut batch: Vec<Encoding> = inputs.par_iter().map(encode).collect::<Result<_>>()?;
        self.pad(&mut batch, options)?;
        Ok(batch)
    }

    fn pad(&self, batch: &mut [Encoding], options: &EncodeOptions) -> Result<()> {
        match &options.padding {
            Some(padding) => pad(batch, padding, self.pad.0, &self.pad.1),
            None => Ok(()),
        }
    }

    fn encode_unpadded(&self, input: Input<'_>, options: &EncodeOptions) -> Result<Encoding> {
        let (first, second) = match input {
            Input::Single(text) => (self.tokens(text, options)?, None),
            Input::Pair(a, b) => (self.tokens(a, options)?, Some(self.tokens(b, options)?)),
        };
        let frame = if second.is_some() { &self.pair } else { &self.single };
        let Some(truncation) = &options.truncation else {
            let texts = [first, second.unwrap_or_default()];
            return Ok(self.assemble(frame, texts, options));
        };
        let added = if options.add_special_tokens { frame.added() } else { 0 };
        let odd = if self.profile == Profile::Slow { OddToken::First } else { OddToken::Longer };
        let (keep_a, keep_b) = lengths((first.len(), second.as_ref().map(Vec::len)), truncation, added, odd)?;
        let cut = |tokens: &[Token], keep| -> Result<Vec<Vec<Token>>> {
            let Truncation { stride, side, .. } = *truncation;
            Ok(windows(tokens.len(), keep, stride, side)?.into_iter().map(|w| tokens[w].to_vec()).collect())
        };
        let (firsts, seconds) = (cut(&first, keep_a)?, cut(&second.unwrap_or_default(), keep_b)?);
        let window = |a: &Vec<Token>, b: &Vec<Token>| self.assemble(frame, [a.clone(), b.clone()], options);
        // The order of the tokenizers library: the later windows of the first text with all of the second, then its first.
        let order = firsts.iter().skip(1).chain(firsts.first());
        let mut all: Vec<Encoding> =
            order.flat_map(|a| seconds.iter().map(move |b| (a, b))).map(|(a, b)| window(a, b)).collect();
        let mut encoding = all.remove((firsts.len() - 1) * seconds.len());
        encoding.overflowing = all;
        Ok(encoding)
    }

    fn assemble(&self, frame: &Frame, texts: [Vec<Token>; 2], options: &EncodeOptions) -> Encoding {
        let framed = options.add_special_tokens;
        let mut encoding = Encoding::with_capacity(texts[0].len() + texts[1].len() + frame.0.len());
        let mut texts = texts.map(Some);
        for place in &frame.0 {
            match place {
                Place::Token { id, text, type_id } if framed => encoding.push_special(*id, text, *type_id),
                Place::Token { .. } => {}
                Place::Text { sequence, type_id } => {
                    // Without special tokens, transformers 4's slow tokenizer gives both texts the type 0.
                    let type_id = if framed || self.profile != Profile::Slow { *type_id } else { 0 };
                    for token in texts[*sequence].take().unwrap_or_default() {
                        encoding.push(token, *sequence as u8, type_id);
                    }
                }
            }
        }
        encoding
    }

    fn tokens(&self, text: &str, options: &EncodeOptions) -> Result<Vec<Token>> {
        if text.len() > MAX_TEXT_BYTES {
            return Err(TokenizerError::TextTooLong { bytes: text.len(), limit: MAX_TEXT_BYTES });
        }
        match &self.backend {
            Backend::Slow(slow) => Ok(slow.tokenize(text, options.add_prefix_space)),
            Backend::Fast(fast) => fast.tokenize(text),
        }
    }

    /// What the tokens of a text read, without special tokens around them.
    pub fn tokenize(&self, text: &str) -> Result<Vec<String>> {
        Ok(self.tokens(text, &EncodeOptions::default())?.into_iter().map(|t| t.text).collect())
    }

    /// What a text is normalized to before it is cut. Added tokens are not set apart in the fast profiles.
    pub fn normalize(&self, text: &str) -> Result<String> {
        match &self.backend {
            Backend::Slow(slow) => Ok(slow.normalize(text)),
            Backend::Fast(fast) => fast.normalize(text),
        }
    }

    /// Ids to text. Ids that no token has read as the unknown token under `slow` and as nothing under the others.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String> {
        let text = match &self.backend {
            Backend::Slow(slow) => slow.decode(ids, skip_special_tokens),
            Backend::Fast(fast) => fast.decode(ids, skip_special_tokens)?,
        };
        Ok(if self.settings.clean_up_tokenization_spaces { clean_up_tokenization(&text) } else { text })
    }

    /// Tokens to text, as they read: they need not be of the vocabulary, none is left out, and no space is taken back.
    ///
    /// # Errors
    /// Where the `tokenizers` library fails on them.
    pub fn convert_tokens_to_string<S: AsRef<str>>(&self, tokens: &[S]) -> Result<String> {
        match &self.backend {
            Backend::Slow(slow) => Ok(slow.join(tokens)),
            Backend::Fast(fast) => fast.join(tokens.iter().map(|t| t.as_ref().to_owned()).collect()),
        }
    }

    /// The id of a token; the unknown one's where there is no such token.
    pub fn convert_tokens_to_ids<S: AsRef<str>>(&self, tokens: &[S]) -> Vec<u32> {
        tokens.iter().map(|t| self.backend.id(t.as_ref())).collect()
    }

    /// What ids read. An id that no token has reads as the unknown token under `slow`, and as `None` under the others.
    pub fn convert_ids_to_tokens(&self, ids: &[u32]) -> Vec<Option<String>> {
        ids.iter().map(|id| self.backend.token(*id)).collect()
    }

    /// The id of a token, if there is one.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        match &self.backend {
            Backend::Slow(slow) => slow.known_id(token),
            Backend::Fast(fast) => fast.known_id(token),
        }
    }

    /// Whether the token of an id is special.
    pub fn is_special(&self, id: u32) -> bool {
        match &self.backend {
            Backend::Slow(slow) => slow.is_special(id),
            Backend::Fast(fast) => fast.is_special(id),
        }
    }

    /// Whether the token of an id is one byte, which only `slow` yields.
    pub fn is_byte(&self, id: u32) -> bool {
        match &self.backend {
            Backend::Slow(slow) => slow.spm.piece_type(id) == Some(PieceType::Byte),
            Backend::Fast(_) => false,
        }
    }

    /// The tokens that are looked for in text before it is cut, with their ids.
    pub fn added_tokens(&self) -> Vec<(u32, AddedToken)> {
        match &self.backend {
            Backend::Slow(slow) => slow.added_tokens().map(|(id, t)| (id, t.clone())).collect(),
            Backend::Fast(fast) => fast.added_tokens(),
        }
    }

    /// The size of the vocabulary without added tokens.
    pub fn vocab_size(&self) -> usize {
        match &self.backend {
            Backend::Slow(slow) => slow.vocab_size(),
            Backend::Fast(fast) => fast.vocab_size(),
        }
    }

    /// The number of different tokens, added ones included (`len(tokenizer)`).
    pub fn len(&self) -> usize {
        match &self.backend {
            Backend::Slow(slow) => slow.len(),
            Backend::Fast(fast) => fast.len(),
        }
    }

    /// Never.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The id of `[CLS]`.
    pub fn cls_token_id(&self) -> u32 {
        self.cls_id
    }

    /// The id of `[SEP]`.
    pub fn sep_token_id(&self) -> u32 {
        self.sep_id
    }

    /// The id of `[PAD]`.
    pub fn pad_token_id(&self) -> u32 {
        self.pad.0
    }

    /// The id of `[MASK]`, or of what the files name in its place; `None` where they say null.
    pub fn mask_token_id(&self) -> Option<u32> {
        self.mask.as_deref().and_then(|mask| self.token_to_id(mask))
    }

    /// What `[MASK]` reads, or what the files name in its place; `None` where they say null.
    pub fn mask_token(&self) -> Option<&str> {
        self.mask.as_deref()
    }

    /// The id of `[UNK]`, or of what the files name in its place; `None` where they say null.
    pub fn unk_token_id(&self) -> Option<u32> {
        self.unk.as_deref().and_then(|unk| self.token_to_id(unk))
    }

    /// The longest input of the model, if `tokenizer_config.json` says.
    pub fn model_max_length(&self) -> Option<usize> {
        self.settings.model_max_length
    }

    /// Where `tokenizer_config.json` wants padding; at the end by default.
    pub fn padding_side(&self) -> Side {
        self.settings.padding_side
    }

    /// Where `tokenizer_config.json` wants texts cut; at the end by default.
    pub fn truncation_side(&self) -> Side {
        self.settings.truncation_side
    }

    /// `[CLS] A [SEP]` or `[CLS] A [SEP] B [SEP]`.
    pub fn build_inputs_with_special_tokens(&self, ids_0: &[u32], ids_1: Option<&[u32]>) -> Vec<u32> {
        let mut ids = vec![self.cls_id];
        for text in [Some(ids_0), ids_1].into_iter().flatten() {
            ids.extend(text);
            ids.push(self.sep_id);
        }
        ids
    }

    /// 1 for each special token of such a list and 0 for each other one. Of a list that has its special tokens already,
    /// 1 for each id of a special token.
    ///
    /// # Errors
    /// Where there is a second list although the first one has its special tokens already.
    pub fn get_special_tokens_mask(
        &self,
        ids_0: &[u32],
        ids_1: Option<&[u32]>,
        already_has_special_tokens: bool,
    ) -> Result<Vec<u32>> {
        if already_has_special_tokens {
            return match ids_1 {
                Some(_) => Err(TokenizerError::AlreadyFormatted),
                None => Ok(ids_0.iter().map(|id| u32::from(self.is_special(*id))).collect()),
            };
        }
        let mut mask = vec![1];
        for text in [Some(ids_0), ids_1].into_iter().flatten() {
            mask.extend(std::iter::repeat_n(0, text.len()));
            mask.push(1);
        }
        Ok(mask)
    }

    /// 0 for the first text with `[CLS]` and its `[SEP]`, 1 for the second with its `[SEP]`.
    pub fn create_token_type_ids_from_sequences(&self, ids_0: &[u32], ids_1: Option<&[u32]>) -> Vec<u32> {
        let mut types = vec![0; ids_0.len() + 2];
        types.extend(ids_1.iter().flat_map(|ids| std::iter::repeat_n(1, ids.len() + 1)));
        types
    }

    /// How many tokens go around one text, or around a pair.
    pub fn num_special_tokens_to_add(&self, pair: bool) -> usize {
        if pair { self.pair.added() } else { self.single.added() }
    }

    /// Writes `spm.model` into a directory, byte for byte as it was read, and says where. With a prefix the file is
    /// `PREFIX-spm.model`.
    ///
    /// # Errors
    /// Where the tokenizer has no `spm.model`, or the file cannot be written.
    pub fn save_vocabulary(&self, directory: &Path, filename_prefix: Option<&str>) -> Result<PathBuf> {
        let name = filename_prefix.map_or_else(|| "spm.model".to_owned(), |prefix| format!("{prefix}-spm.model"));
        let path = directory.join(name);
        let model = self.spm_model.as_ref();
        let model =
            model.ok_or_else(|| TokenizerError::NeedsSpm { path: directory.to_owned(), profile: self.profile })?;
        let write = |path: &Path| {
            let mut part = path.as_os_str().to_owned();
            part.push(".part");
            std::fs::write(&part, model)?;
            std::fs::rename(&part, path)
        };
        write(&path).map_err(|source| TokenizerError::Write { path: path.clone(), source })?;
        Ok(path)
    }
}

impl Backend {
    fn id(&self, token: &str) -> u32 {
        match self {
            Self::Slow(slow) => slow.id(token),
            Self::Fast(fast) => fast.known_id(token).or(fast.unk_id()).unwrap_or(0),
        }
    }

    fn token(&self, id: u32) -> Option<String> {
        match self {
            Self::Slow(slow) => Some(slow.token(id).to_owned()),
            Self::Fast(fast) => fast.token(id),
        }
    }
}

impl Settings {
    fn read(files: &TokenizerFiles) -> Result<Self> {
        let side = |key: &str| match files.config.get(key).map(|v| v.as_str()) {
            None | Some(Some("right")) => Ok(Side::Right),
            Some(Some("left")) => Ok(Side::Left),
            Some(_) => Err(files.bad("tokenizer_config.json", format!("{key} is neither \"left\" nor \"right\""))),
        };
        // "Very large" stands in many files for "no limit".
        let limit = files.config.get("model_max_length").or(files.config.get("max_len"));
        let limit = limit.and_then(serde_json::Value::as_f64).filter(|l| *l >= 1.0 && *l < 1e20);
        Ok(Self {
            model_max_length: limit.map(|l| l as usize),
            padding_side: side("padding_side")?,
            truncation_side: side("truncation_side")?,
            clean_up_tokenization_spaces: files.flag("clean_up_tokenization_spaces", false)?,
        })
    }
}

fn bert_frame(cls: &(u32, String), sep: &(u32, String), pair: bool) -> Frame {
    let token = |(id, text): &(u32, String), type_id| Place::Token { id: *id, text: text.clone(), type_id };
    let mut places = vec![token(cls, 0), Place::Text { sequence: 0, type_id: 0 }, token(sep, 0)];
    if pair {
        places.extend([Place::Text { sequence: 1, type_id: 1 }, token(sep, 1)]);
    }
    Frame(places)
}

fn read_frame(fast: &FastTokenizer, pair: bool) -> Result<Frame> {
    let place = |token: crate::fast::FrameToken| match token.sequence {
        Some(sequence) => Place::Text { sequence, type_id: token.type_id },
        None => Place::Token { id: token.id, text: token.text, type_id: token.type_id },
    };
    Ok(Frame(fast.frame(pair)?.into_iter().map(place).collect()))
}

/// Takes back spaces before punctuation and contractions (`clean_up_tokenization` of transformers).
fn clean_up_tokenization(text: &str) -> String {
    let rules = [
        (" .", "."),
        (" ?", "?"),
        (" !", "!"),
        (" ,", ","),
        (" ' ", "'"),
        (" n't", "n't"),
        (" 'm", "'m"),
        (" 's", "'s"),
        (" 've", "'ve"),
        (" 're", "'re"),
    ];
    rules.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}
