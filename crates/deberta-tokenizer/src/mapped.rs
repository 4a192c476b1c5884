//! A text that was cut out of, lowered from or pieced together from another one, and knows where each byte came from.

use std::borrow::Cow;
use std::ops::Range;

/// A text with its origin.
#[derive(Clone, Debug)]
pub(crate) struct Mapped<'a> {
    text: Cow<'a, str>,
    /// For each byte of `text`, the bytes of the original it came from; `None` where it is a slice of it.
    origins: Option<Vec<(usize, usize)>>,
    /// Where a slice starts.
    start: usize,
}

impl<'a> Mapped<'a> {
    /// The original itself.
    pub fn whole(text: &'a str) -> Self {
        Self { text: Cow::Borrowed(text), origins: None, start: 0 }
    }

    pub fn empty() -> Self {
        Self { text: Cow::Borrowed(""), origins: None, start: 0 }
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// The bytes of the original that these bytes of the text came from.
    pub fn origin(&self, range: Range<usize>) -> (usize, usize) {
        match &self.origins {
            None => (self.start + range.start, self.start + range.end),
            Some(origins) if range.is_empty() => {
                let at = origins.get(range.start).map(|o| o.0).or(origins.last().map(|o| o.1)).unwrap_or(0);
                (at, at)
            }
            Some(origins) => (origins[range.start].0, origins[range.end - 1].1),
        }
    }

    pub fn slice(&self, range: Range<usize>) -> Self {
        let text = match &self.text {
            Cow::Borrowed(text) => Cow::Borrowed(&text[range.clone()]),
            Cow::Owned(text) => Cow::Owned(text[range.clone()].to_owned()),
        };
        let origins = self.origins.as_ref().map(|o| o[range.clone()].to_vec());
        Self { text, origins, start: self.start + range.start }
    }

    /// With a character in front that came from nothing.
    pub fn prefixed(&self, c: char) -> Self {
        let mut origins = self.each_origin();
        let at = origins.first().map_or(0, |o| o.0);
        origins.splice(..0, std::iter::repeat_n((at, at), c.len_utf8()));
        Self { text: Cow::Owned(format!("{c}{}", self.text)), origins: Some(origins), start: 0 }
    }

    /// Lowered character by character.
    pub fn lowered(&self) -> Self {
        if !self.text.chars().any(|c| c.to_lowercase().ne([c])) {
            return self.clone();
        }
        let mut text = String::with_capacity(self.text.len());
        let mut origins = Vec::with_capacity(self.text.len());
        for (i, c) in self.text.char_indices() {
            let before = text.len();
            text.extend(c.to_lowercase());
            let origin = self.origin(i..i + c.len_utf8());
            origins.extend(std::iter::repeat_n(origin, text.len() - before));
        }
        Self { text: Cow::Owned(text), origins: Some(origins), start: 0 }
    }

    pub fn concat(parts: Vec<Self>) -> Self {
        let mut parts: Vec<Self> = parts.into_iter().filter(|p| !p.text.is_empty()).collect();
        if parts.len() < 2 {
            return parts.pop().unwrap_or_else(Self::empty);
        }
        let text: String = parts.iter().map(|p| p.text.as_ref()).collect();
        let origins = parts.iter().flat_map(Self::each_origin).collect();
        Self { text: Cow::Owned(text), origins: Some(origins), start: 0 }
    }

    /// The origin of each byte; a byte of a character that is there as it was has that character's.
    fn each_origin(&self) -> Vec<(usize, usize)> {
        match &self.origins {
            Some(origins) => origins.clone(),
            None => self
                .text
                .char_indices()
                .flat_map(|(i, c)| {
                    let at = self.start + i;
                    std::iter::repeat_n((at, at + c.len_utf8()), c.len_utf8())
                })
                .collect(),
        }
    }
}
