//! The character classes that the references go by.

use unicode_general_category::{GeneralCategory, get_general_category};

/// What `split_by_punct` splits at (`_is_punctuation` of transformers): the general categories P*, and every ASCII
/// character that is neither letter, digit, control nor space.
pub(crate) fn is_punctuation(c: char) -> bool {
    use GeneralCategory::{
        ClosePunctuation, ConnectorPunctuation, DashPunctuation, FinalPunctuation, InitialPunctuation, OpenPunctuation,
        OtherPunctuation,
    };
    if c.is_ascii() {
        return c.is_ascii_punctuation();
    }
    matches!(
        get_general_category(c),
        ConnectorPunctuation
            | DashPunctuation
            | OpenPunctuation
            | ClosePunctuation
            | InitialPunctuation
            | FinalPunctuation
            | OtherPunctuation
    )
}

/// What Python's `str.strip` strips: Unicode's white space, and the four separators U+001C to U+001F.
pub(crate) fn is_python_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// Turns byte positions of a text into character positions.
pub(crate) struct CharPositions {
    /// By byte; empty where the text is ASCII and they are the same.
    by_byte: Vec<u32>,
}

impl CharPositions {
    pub fn new(text: &str) -> Self {
        if text.is_ascii() {
            return Self { by_byte: Vec::new() };
        }
        let mut by_byte = vec![0; text.len() + 1];
        let mut count = 0;
        for (i, c) in text.char_indices() {
            by_byte[i..i + c.len_utf8()].fill(count);
            count += 1;
        }
        by_byte[text.len()] = count;
        Self { by_byte }
    }

    pub fn chars(&self, (start, end): (usize, usize)) -> (usize, usize) {
        let at = |byte: usize| self.by_byte.get(byte).map_or(byte, |c| *c as usize);
        (at(start), at(end))
    }
}

/// The byte position of every character of a text, and its length.
pub(crate) fn byte_positions(text: &str) -> Option<Vec<usize>> {
    if text.is_ascii() {
        return None;
    }
    Some(text.char_indices().map(|(i, _)| i).chain([text.len()]).collect())
}
