//! Which tokens are special, and which are added: what a model directory says, read as each reference reads it
//! (`PreTrainedTokenizerBase._from_pretrained` of transformers 4.57 and 5.23).
//!
//! 1. `tokenizer_config.json` names the special tokens; what it leaves out is `[CLS]`, `[SEP]`, `[UNK]`, `[SEP]`, `[PAD]`,
//!    `[CLS]` and `[MASK]` for `bos` `eos` `unk` `sep` `pad` `cls` `mask`.
//! 2. With `added_tokens_decoder` there, the other files are not looked at.
//! 3. Without it, `special_tokens_map.json` overrides 1; `added_tokens.json` gives further tokens, special if 1 names them;
//!    and `added_tokens` of `tokenizer.json` gives further ones still, with their flags.
//! 4. A special token that an added token reads like takes over that one's flags. Of those of `added_tokens.json`,
//!    only in transformers 5.

use serde_json::Value;

use crate::added_tokens::AddedToken;
use crate::error::Result;
use crate::files::{Object, TokenizerFiles};
use crate::profile::Profile;

/// The special tokens that have names, in the order in which they get ids, with their defaults.
pub(crate) const NAMED: [(&str, &str); 7] = [
    ("bos_token", "[CLS]"),
    ("eos_token", "[SEP]"),
    ("unk_token", "[UNK]"),
    ("sep_token", "[SEP]"),
    ("pad_token", "[PAD]"),
    ("cls_token", "[CLS]"),
    ("mask_token", "[MASK]"),
];

/// A special token as a file gives it: by what it reads, or with flags.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TokenSpec {
    Text(String),
    Flagged(AddedToken),
}

impl TokenSpec {
    pub fn content(&self) -> &str {
        match self {
            Self::Text(text) => text,
            Self::Flagged(token) => &token.content,
        }
    }

    /// As a special token; one without flags of its own is found in the text as given.
    pub fn to_special(&self) -> AddedToken {
        match self {
            Self::Text(text) => AddedToken::special(text.clone()),
            Self::Flagged(token) => AddedToken { special: true, ..token.clone() },
        }
    }
}

/// What the files say of special and added tokens.
#[derive(Clone, Debug)]
pub(crate) struct SpecialTokens {
    /// By place in [`NAMED`]; `None` where the file says null.
    named: [Option<TokenSpec>; 7],
    /// The further ones (`additional_special_tokens`); `None` where no file speaks of any.
    pub additional: Option<Vec<TokenSpec>>,
    /// Tokens that the files add, with their ids, in the files' order.
    pub added: Vec<(u32, AddedToken)>,
}

/// The keys under which files list further special tokens, the old one and that of transformers 5.
const ADDITIONAL: [&str; 2] = ["additional_special_tokens", "extra_special_tokens"];

impl SpecialTokens {
    pub fn read(files: &TokenizerFiles, profile: Profile) -> Result<Self> {
        let values = files.config.clone();
        Reader { files, profile, values, added: Vec::new(), flags_from: Vec::new() }.read()
    }

    /// The named token, such as `cls_token`.
    pub fn named(&self, name: &str) -> Option<&TokenSpec> {
        let place = NAMED.iter().position(|(n, _)| *n == name)?;
        self.named[place].as_ref()
    }

    /// All, the named ones first, each once by what it reads.
    pub fn all(&self) -> Vec<&TokenSpec> {
        let mut all: Vec<&TokenSpec> = Vec::new();
        for token in self.named.iter().flatten().chain(self.additional.iter().flatten()) {
            if all.iter().all(|t| t.content() != token.content()) {
                all.push(token);
            }
        }
        all
    }
}

struct Reader<'a> {
    files: &'a TokenizerFiles,
    profile: Profile,
    /// `tokenizer_config.json`, overridden.
    values: Object,
    added: Vec<(u32, AddedToken)>,
    /// The added tokens whose flags special tokens take over.
    flags_from: Vec<AddedToken>,
}

impl Reader<'_> {
    fn read(&mut self) -> Result<SpecialTokens> {
        let config = "tokenizer_config.json";
        let [old, new] = ADDITIONAL;
        let is_empty =
            |value: Option<&Value>| value.is_none_or(|v| v.is_null() || v.as_array().is_some_and(Vec::is_empty));
        if self.profile == Profile::Hf5
            && is_empty(self.values.get(new))
            && let Some(list) = self.values.remove(old)
        {
            self.values.insert(new.to_owned(), list);
        }
        let decoder = self.values.remove("added_tokens_decoder");
        if let Some(decoder) = decoder {
            let entries =
                decoder.as_object().ok_or_else(|| self.files.bad(config, "added_tokens_decoder is no object"))?;
            for (id, token) in entries {
                let id = id
                    .parse()
                    .map_err(|_| self.files.bad(config, format!("added_tokens_decoder has the id {id:?}")))?;
                let token = token
                    .as_object()
                    .ok_or_else(|| self.files.bad(config, format!("added token {id} is no object")))?;
                let token = AddedToken::read(token).map_err(|e| self.files.bad(config, e))?;
                self.flags_from.push(token.clone());
                self.add(id, token);
            }
        } else {
            self.override_by_map()?;
            self.add_from_added_tokens()?;
            self.add_from_tokenizer_json()?;
        }
        let mut named = [const { None }; 7];
        for (slot, (name, default)) in named.iter_mut().zip(NAMED) {
            *slot = match self.values.get(name) {
                None => Some(TokenSpec::Text(default.to_owned())),
                Some(Value::Null) => None,
                Some(value) => Some(self.token(value, config, name)?),
            };
            if let Some(token) = slot
                && let Some(added) = self.flags_from.iter().rfind(|a| a.content == token.content())
            {
                *slot = Some(TokenSpec::Flagged(added.clone()));
            }
        }
        // transformers 4 makes the unknown token one that is looked for in normalized text.
        if self.profile != Profile::Hf5
            && let Some(TokenSpec::Text(text)) = &named[2]
        {
            let token = AddedToken { normalized: Some(true), ..AddedToken::special(text.clone()) };
            named[2] = Some(TokenSpec::Flagged(token));
        }
        let additional = self.additional()?;
        Ok(SpecialTokens { named, additional, added: std::mem::take(&mut self.added) })
    }

    fn add(&mut self, id: u32, token: AddedToken) {
        match self.added.iter_mut().find(|(i, _)| *i == id) {
            Some(entry) => entry.1 = token,
            None => self.added.push((id, token)),
        }
    }

    fn override_by_map(&mut self) -> Result<()> {
        let file = "special_tokens_map.json";
        for (key, value) in self.files.special_tokens_map.iter().flatten() {
            let value = match value {
                Value::Object(object) if NAMED.iter().any(|(n, _)| n == key) => {
                    let mut object = object.clone();
                    object.insert("special".to_owned(), Value::Bool(true));
                    AddedToken::read(&object).map_err(|e| self.files.bad(file, format!("{key}: {e}")))?;
                    Value::Object(object)
                }
                Value::Array(list) if *key == self.merged_key() => {
                    let before = self.values.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
                    Value::Array(before.into_iter().chain(list.iter().cloned()).collect())
                }
                other => other.clone(),
            };
            self.values.insert(key.clone(), value);
        }
        Ok(())
    }

    /// The key whose list `special_tokens_map.json` adds to rather than replaces.
    fn merged_key(&self) -> &'static str {
        ADDITIONAL[usize::from(self.profile == Profile::Hf5)]
    }

    fn add_from_added_tokens(&mut self) -> Result<()> {
        let file = "added_tokens.json";
        let special: Vec<String> = NAMED
            .iter()
            .filter_map(|(name, _)| self.values.get(*name))
            .filter_map(|v| content(v).map(str::to_owned))
            .chain(self.list(self.merged_key())?.unwrap_or_default().iter().map(|t| t.content().to_owned()))
            .collect();
        for (text, id) in self.files.added_tokens.iter().flatten() {
            let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
            let id = id.ok_or_else(|| self.files.bad(file, format!("the id of {text:?} is not a number")))?;
            let is_special = special.contains(text);
            let token =
                AddedToken { special: is_special, normalized: Some(!is_special), ..AddedToken::new(text.clone()) };
            self.add(id, token);
        }
        Ok(())
    }

    fn add_from_tokenizer_json(&mut self) -> Result<()> {
        #[derive(serde::Deserialize)]
        struct AddedOnly {
            #[serde(default)]
            added_tokens: Vec<Object>,
        }
        let file = "tokenizer.json";
        let Some(bytes) = &self.files.tokenizer_json else { return Ok(()) };
        let parsed: AddedOnly =
            serde_json::from_slice(bytes).map_err(|e| self.files.bad(file, format!("is not a tokenizer: {e}")))?;
        for token in &parsed.added_tokens {
            let id = token.get("id").and_then(Value::as_u64).and_then(|id| u32::try_from(id).ok());
            let id = id.ok_or_else(|| self.files.bad(file, "an added token has no id"))?;
            let token = AddedToken::read(token).map_err(|e| self.files.bad(file, e))?;
            self.flags_from.push(token.clone());
            self.add(id, token);
        }
        Ok(())
    }

    /// The further special tokens. In transformers 5 the list under the old key, where it is there at all by now, counts
    /// only if there is none under the new one, and only without an `spm.model` to take it from instead.
    fn additional(&self) -> Result<Option<Vec<TokenSpec>>> {
        let [old, new] = ADDITIONAL;
        if self.profile != Profile::Hf5 {
            return self.list(old);
        }
        match self.list(new)? {
            None if self.files.has_tokenizer_json() => self.list(old),
            found => Ok(found),
        }
    }

    /// The special tokens of a list; `None` where the key is not there, or is no list.
    fn list(&self, key: &str) -> Result<Option<Vec<TokenSpec>>> {
        let Some(Value::Array(list)) = self.values.get(key) else { return Ok(None) };
        let mut tokens = Vec::new();
        for value in list {
            let token = match self.token(value, "tokenizer_config.json", key)? {
                TokenSpec::Flagged(token) => TokenSpec::Flagged(AddedToken { special: true, ..token }),
                text => text,
            };
            if !tokens.contains(&token) {
                tokens.push(token);
            }
        }
        Ok(Some(tokens))
    }

    fn token(&self, value: &Value, file: &str, name: &str) -> Result<TokenSpec> {
        match value {
            Value::String(text) => Ok(TokenSpec::Text(text.clone())),
            Value::Object(object) => {
                let token = AddedToken::read(object).map_err(|e| self.files.bad(file, format!("{name}: {e}")))?;
                Ok(TokenSpec::Flagged(token))
            }
            other => Err(self.files.bad(file, format!("{name} is {other}, not a token"))),
        }
    }
}

fn content(value: &Value) -> Option<&str> {
    match value {
        Value::String(text) => Some(text),
        Value::Object(object) => object.get("content").and_then(Value::as_str),
        _ => None,
    }
}
