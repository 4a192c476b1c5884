//! Tokens beside the vocabulary's own: their flags, and how the slow tokenizer finds them in a text.

use std::collections::HashMap;

use serde_json::Value;

use crate::files::Object;
use crate::special_tokens::{SpecialTokens, TokenSpec};
use crate::spm::Pieces;

/// A token that is found in text as a whole, before the text is cut into pieces (`AddedToken` of transformers).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddedToken {
    /// What it reads.
    pub content: String,
    /// Found only where spaces, or the ends of the text, are around it.
    pub single_word: bool,
    /// Takes the white space on its left along.
    pub lstrip: bool,
    /// Takes the white space on its right along.
    pub rstrip: bool,
    /// Found in the normalized text rather than in the text as given; by default, where it is not special.
    pub normalized: Option<bool>,
    /// Left out of decoded text on request.
    pub special: bool,
}

impl AddedToken {
    /// A token without any flag.
    pub fn new(content: impl Into<String>) -> Self {
        let content = content.into();
        Self { content, single_word: false, lstrip: false, rstrip: false, normalized: None, special: false }
    }

    /// A special token, found in the text as given.
    pub(crate) fn special(content: impl Into<String>) -> Self {
        Self { special: true, normalized: Some(false), ..Self::new(content) }
    }

    /// Whether it is looked for in the normalized text.
    pub fn is_normalized(&self) -> bool {
        self.normalized.unwrap_or(!self.special)
    }

    /// Reads `{"content": …, "lstrip": …, …}`; what is missing is false. The error says what is wrong.
    pub(crate) fn read(object: &Object) -> Result<Self, String> {
        let flag = |key: &str| match object.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(other) => Err(format!("{key} of an added token is {other}, not true or false")),
        };
        let content = object.get("content").and_then(Value::as_str).ok_or("an added token has no content")?;
        Ok(Self {
            content: content.to_owned(),
            single_word: flag("single_word")?.unwrap_or(false),
            lstrip: flag("lstrip")?.unwrap_or(false),
            rstrip: flag("rstrip")?.unwrap_or(false),
            normalized: flag("normalized")?,
            special: flag("special")?.unwrap_or(false),
        })
    }
}

/// The added tokens of a slow tokenizer, by id and by what they read.
#[derive(Clone, Debug, Default)]
pub(crate) struct AddedTokens {
    by_id: HashMap<u32, AddedToken>,
    /// The ids in the order in which they were given out.
    order: Vec<u32>,
    ids: HashMap<String, u32>,
    trie: Trie,
}

impl AddedTokens {
    /// What the files add, with the ids they give; then the special tokens, each with the id of what reads like it, or
    /// the next one that is free (`PreTrainedTokenizer._add_tokens` of transformers 4).
    pub fn assign(special: &SpecialTokens, pieces: &Pieces) -> Self {
        let mut added = Self::default();
        for (id, token) in &special.added {
            added.insert(*id, token.clone());
        }
        let mut next = added.vocabulary_size(pieces);
        for token in special.all() {
            let known = matches!(token, TokenSpec::Text(text) if added.id(text).is_some());
            if known || token.content().is_empty() {
                continue;
            }
            let id = added.id(token.content()).or_else(|| pieces.id(token.content())).unwrap_or_else(|| {
                next += 1;
                next as u32 - 1
            });
            added.insert(id, token.to_special());
        }
        added
    }

    /// The number of different tokens, these and the pieces.
    pub fn vocabulary_size(&self, pieces: &Pieces) -> usize {
        pieces.different() + self.ids.keys().filter(|text| pieces.id(text).is_none()).count()
    }

    /// Adds a token, or gives an id another one.
    pub fn insert(&mut self, id: u32, token: AddedToken) {
        self.trie.insert(&token.content);
        self.ids.insert(token.content.clone(), id);
        if self.by_id.insert(id, token).is_none() {
            self.order.push(id);
        }
    }

    pub fn id(&self, content: &str) -> Option<u32> {
        self.ids.get(content).copied()
    }

    pub fn get(&self, id: u32) -> Option<&AddedToken> {
        self.by_id.get(&id)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, u32)> {
        self.ids.iter().map(|(content, id)| (content.as_str(), *id))
    }

    /// The tokens with their ids, in the order in which they were added.
    pub fn tokens(&self) -> impl Iterator<Item = (u32, &AddedToken)> {
        self.order.iter().filter_map(|id| Some((*id, self.by_id.get(id)?)))
    }

    /// The byte positions at which `text` is cut to set the added tokens in it apart, in order, without its ends.
    pub fn cuts(&self, text: &str) -> Vec<usize> {
        self.trie.cuts(text)
    }
}

/// Finds added tokens in a text as `Trie.split` of transformers does: from left to right, of those that start at one
/// place the longest.
///
/// One trait of it is kept although it looks unwanted, since ids depend on it: where a token is found while a longer
/// one that started earlier has just failed at this very character, the search goes on behind the character as if it
/// had matched.
#[derive(Clone, Debug)]
struct Trie {
    nodes: Vec<Node>,
}

#[derive(Clone, Debug, Default)]
struct Node {
    next: HashMap<char, usize>,
    ends_token: bool,
}

const ROOT: usize = 0;

impl Default for Trie {
    fn default() -> Self {
        Self { nodes: vec![Node::default()] }
    }
}

/// A token that may be under way: where it started and how far it got.
type Start = (usize, usize);

impl Trie {
    fn insert(&mut self, token: &str) {
        if token.is_empty() {
            return;
        }
        let mut node = ROOT;
        for c in token.chars() {
            let fresh = self.nodes.len();
            node = *self.nodes[node].next.entry(c).or_insert(fresh);
            if node == fresh {
                self.nodes.push(Node::default());
            }
        }
        self.nodes[node].ends_token = true;
    }

    fn step(&self, node: usize, c: char) -> Option<usize> {
        self.nodes[node].next.get(&c).copied()
    }

    fn cuts(&self, text: &str) -> Vec<usize> {
        let mut cuts = Vec::new();
        let mut starts: Vec<Start> = Vec::new();
        let mut skip = 0;
        for (here, c) in text.char_indices() {
            if here < skip || (starts.is_empty() && self.step(ROOT, c).is_none()) {
                continue;
            }
            let mut found = None;
            let mut failed = Vec::new();
            for i in 0..starts.len() {
                let (start, node) = starts[i];
                if self.nodes[node].ends_token {
                    found = Some(self.look_ahead(text, &starts, start, here, here + c.len_utf8(), &mut skip));
                    break;
                }
                match self.step(node, c) {
                    Some(next) => starts[i].1 = next,
                    None => failed.push(start),
                }
            }
            if let Some((start, end)) = found {
                cuts.extend([start, end]);
                starts.clear();
            } else {
                starts.retain(|(start, _)| !failed.contains(start));
            }
            if here >= skip
                && let Some(node) = self.step(ROOT, c)
            {
                starts.push((here, node));
            }
        }
        if let Some((start, _)) = starts.iter().find(|(_, node)| self.nodes[*node].ends_token) {
            cuts.extend([*start, text.len()]);
        }
        in_order(cuts, text.len())
    }

    /// A token that started at `start` ends before `here`. Of it and of all that started earlier, the first one that the
    /// text completes is taken, as long as it gets.
    fn look_ahead(
        &self,
        text: &str,
        starts: &[Start],
        mut start: usize,
        here: usize,
        after: usize,
        skip: &mut usize,
    ) -> (usize, usize) {
        let mut end = here;
        for &(other, mut node) in starts {
            if other > start {
                break;
            }
            let mut ahead = if other < start { after } else { here };
            end = ahead;
            if self.nodes[node].ends_token {
                (start, *skip) = (other, ahead);
            }
            for c in text[ahead..].chars() {
                let Some(next) = self.step(node, c) else { break };
                node = next;
                ahead += c.len_utf8();
                if self.nodes[node].ends_token {
                    (start, end, *skip) = (other, ahead, ahead);
                }
            }
        }
        (start, end)
    }
}

/// Drops cuts that lie before an earlier one, twice the same, and those at the ends.
fn in_order(cuts: Vec<usize>, length: usize) -> Vec<usize> {
    let mut last = 0;
    cuts.into_iter()
        .filter(|&cut| {
            let forward = cut > last && cut < length;
            last = last.max(cut);
            forward
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(tokens: &[&str], text: &str) -> Vec<String> {
        let mut trie = Trie::default();
        tokens.iter().for_each(|t| trie.insert(t));
        let cuts = trie.cuts(text);
        let ends = cuts.iter().copied().chain([text.len()]);
        let starts = [0].into_iter().chain(cuts.iter().copied());
        starts.zip(ends).filter(|(a, b)| a < b).map(|(a, b)| text[a..b].to_owned()).collect()
    }

    /// The cases of `tests/utils/test_tokenization_utils.py` of transformers.
    #[test]
    fn splits_as_transformers_does() {
        assert_eq!(split(&["[CLS]"], "[CLS] This is"), ["[CLS]", " This is"]);
        assert_eq!(split(&["A"], "ABC"), ["A", "BC"]);
        assert_eq!(split(&["A"], "BCA"), ["BC", "A"]);
        assert_eq!(split(&["TOKEN]", "[SPECIAL_TOKEN]"], "[SPECIAL_TOKEN]x"), ["[SPECIAL_TOKEN]", "x"]);
        assert_eq!(split(&["A", "P", "[SPECIAL_TOKEN]"], "This is something [SPECIAL_TOKEN]")[1], "[SPECIAL_TOKEN]");
        assert_eq!(split(&["AB", "B", "C"], "ABC"), ["AB", "C"]);
        assert_eq!(split(&["ABC", "B", "CD"], "ABCD"), ["ABC", "D"]);
        assert_eq!(
            split(&["[CLS]", "extra_id_1", "extra_id_100"], "[CLS] This is a extra_id_100"),
            ["[CLS]", " This is a ", "extra_id_100"]
        );
    }

    /// `abcd` fails at `x`, where `bc` is found; what follows `x` completes it all the same.
    #[test]
    fn keeps_the_trait_of_the_reference() {
        assert_eq!(split(&["bc", "abcd"], "abcxd"), ["abcxd"]);
        assert_eq!(split(&["bc", "abcd"], "abcxe"), ["a", "bc", "xe"]);
    }
}
