//! Normalization as a SentencePiece model describes it (`normalizer.cc`, `Normalizer::Normalize`).
//!
//! 1. White space at the front is dropped (`remove_extra_whitespaces`).
//! 2. A space is put in front (`add_dummy_prefix`); with `treat_whitespace_as_suffix`, behind.
//! 3. The longest string of the character map at each position is replaced, user-defined symbols excepted. Of a run of
//!    white space one space stays.
//! 4. White space at the end is dropped.
//! 5. Every space that is left is written `▁` (U+2581) (`escape_whitespaces`).
//!
//! Beside the text goes, for every byte of it, the byte of the original at which what it came from starts. White space
//! that was dropped belongs to the byte before it.

use super::char_map::{BrokenCharMap, CharMap};
use super::proto::NormalizerSpec;

/// `▁`, which stands for a space within pieces.
pub(crate) const SPACE: &str = "\u{2581}";

/// The normalizer of a model.
#[derive(Clone, Debug)]
pub(crate) struct Normalizer {
    char_map: Option<CharMap>,
    /// Sorted; kept whole wherever they stand.
    user_defined: Vec<String>,
    add_dummy_prefix: bool,
    remove_extra_whitespaces: bool,
    escape_whitespaces: bool,
    space_is_suffix: bool,
    /// The ASCII bytes that stay themselves wherever an ASCII byte or the end follows.
    plain: [bool; 128],
}

/// Normalized text and where it came from.
#[derive(Clone, Debug, Default)]
pub(crate) struct Normalized {
    pub text: String,
    /// One entry for each byte of `text`, and one for its end: a byte position in the original.
    pub origin: Vec<usize>,
    /// Where the white space that was dropped at the front ends.
    pub leading_space: usize,
}

impl Normalizer {
    pub fn new(spec: &NormalizerSpec, space_is_suffix: bool, user_defined: Vec<String>) -> Result<Self, BrokenCharMap> {
        let char_map = match spec.precompiled_charsmap() {
            [] => None,
            blob => Some(CharMap::read(blob)?),
        };
        let mut normalizer = Self {
            char_map,
            user_defined,
            add_dummy_prefix: spec.add_dummy_prefix(),
            remove_extra_whitespaces: spec.remove_extra_whitespaces(),
            escape_whitespaces: spec.escape_whitespaces(),
            space_is_suffix,
            plain: [false; 128],
        };
        normalizer.user_defined.sort_unstable();
        normalizer.plain = std::array::from_fn(|b| normalizer.is_plain(b as u8));
        Ok(normalizer)
    }

    fn is_plain(&self, byte: u8) -> bool {
        byte != b' '
            && !self.user_defined.iter().any(|u| u.as_bytes().first() == Some(&byte))
            && self.char_map.as_ref().is_none_or(|m| m.leaves_ascii(byte))
    }

    /// Whether a decoder drops the space in front.
    pub fn drops_first_space(&self) -> bool {
        self.add_dummy_prefix || self.remove_extra_whitespaces
    }

    pub fn removes_extra_whitespaces(&self) -> bool {
        self.remove_extra_whitespaces
    }

    /// Normalizes `text`. Empty where nothing but white space is in it.
    pub fn normalize(&self, text: &str) -> Normalized {
        let mut rest = text;
        if self.remove_extra_whitespaces {
            while let Some((taken, " ")) = self.prefix(rest) {
                rest = &rest[taken..];
            }
        }
        let mut consumed = text.len() - rest.len();
        let mut out = Normalized { leading_space: consumed, ..Normalized::default() };
        if rest.is_empty() {
            return out;
        }
        out.text.reserve(rest.len() + rest.len() / 2);
        out.origin.reserve(rest.len() + rest.len() / 2);
        if self.add_dummy_prefix && !self.space_is_suffix {
            self.push_space(&mut out, consumed);
        }
        let mut after_space = self.remove_extra_whitespaces;
        while let Some((taken, mut new)) = self.prefix(rest) {
            if after_space {
                new = new.trim_start_matches(' ');
            }
            if !new.is_empty() {
                self.push(&mut out, new, consumed);
                after_space = new.ends_with(' ') && self.remove_extra_whitespaces;
            }
            consumed += taken;
            rest = &rest[taken..];
        }
        if self.remove_extra_whitespaces {
            let space = if self.escape_whitespaces { SPACE } else { " " };
            while out.text.ends_with(space) {
                let length = out.text.len() - space.len();
                consumed = out.origin[length];
                out.text.truncate(length);
                out.origin.truncate(length);
            }
        }
        if self.add_dummy_prefix && self.space_is_suffix {
            self.push_space(&mut out, consumed);
        }
        out.origin.push(consumed);
        out
    }

    /// What the front of `rest` becomes, and how many bytes of it that takes. `None` at its end.
    fn prefix<'a>(&'a self, rest: &'a str) -> Option<(usize, &'a str)> {
        let first = *rest.as_bytes().first()?;
        if first < 128 && self.plain[usize::from(first)] && rest.as_bytes().get(1).is_none_or(u8::is_ascii) {
            return Some((1, &rest[..1]));
        }
        if let Some(symbol) = self.user_defined_prefix(rest) {
            return Some((symbol.len(), symbol));
        }
        if let Some((taken, new)) = self.char_map.as_ref().and_then(|m| m.longest_prefix(rest.as_bytes())) {
            // A sound map replaces whole characters; one that does not is passed over at this place.
            if rest.is_char_boundary(taken) {
                return Some((taken, new));
            }
        }
        let taken = rest.chars().next().map_or(0, char::len_utf8);
        Some((taken, &rest[..taken]))
    }

    fn user_defined_prefix<'a>(&'a self, rest: &str) -> Option<&'a str> {
        self.user_defined.iter().map(String::as_str).filter(|u| rest.starts_with(u)).max_by_key(|u| u.len())
    }

    fn push(&self, out: &mut Normalized, new: &str, origin: usize) {
        if self.escape_whitespaces && new.contains(' ') {
            for c in new.chars() {
                if c == ' ' {
                    self.push_space(out, origin);
                } else {
                    out.text.push(c);
                    out.origin.extend(std::iter::repeat_n(origin, c.len_utf8()));
                }
            }
        } else {
            out.text.push_str(new);
            out.origin.extend(std::iter::repeat_n(origin, new.len()));
        }
    }

    fn push_space(&self, out: &mut Normalized, origin: usize) {
        let space = if self.escape_whitespaces { SPACE } else { " " };
        out.text.push_str(space);
        out.origin.extend(std::iter::repeat_n(origin, space.len()));
    }
}
