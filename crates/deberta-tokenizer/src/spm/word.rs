//! Cutting at white space (`model_interface.cc`, `SplitIntoWords`), for models of type WORD. Small test models are of
//! this type.

use std::ops::Range;

use super::normalizer::SPACE;

/// The words of normalized text. A `▁` goes with what follows it, or, as a suffix, with what precedes it. With
/// `allow_spaces_only` a run of them counts as one.
pub(super) fn split(text: &str, space_is_suffix: bool, allow_spaces_only: bool) -> Vec<Range<usize>> {
    let mut words: Vec<Range<usize>> = Vec::new();
    let mut in_spaces = false;
    let mut cut_here = true;
    for (start, c) in text.char_indices() {
        let end = start + c.len_utf8();
        let is_space = text[start..end] == *SPACE;
        let starts_word = if space_is_suffix {
            cut_here || (!is_space && in_spaces && allow_spaces_only)
        } else {
            start == 0 || (is_space && (!in_spaces || !allow_spaces_only))
        };
        match words.last_mut() {
            Some(last) if !starts_word => last.end = end,
            _ => words.push(start..end),
        }
        cut_here = space_is_suffix && is_space && !allow_spaces_only;
        in_spaces = is_space;
    }
    words
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn splits_before_and_after_spaces() {
        let words = |text: &str, suffix, runs| -> Vec<String> {
            split(text, suffix, runs).into_iter().map(|r| text[r].to_owned()).collect()
        };
        assert_eq!(words("▁ab▁c", false, false), ["▁ab", "▁c"]);
        assert_eq!(words("▁▁ab▁", false, false), ["▁", "▁ab", "▁"]);
        assert_eq!(words("ab▁▁c▁", true, false), ["ab▁", "▁", "c▁"]);
        assert_eq!(words("ab▁▁c", true, true), ["ab▁▁", "c"]);
        assert_eq!(words("", false, false), [""; 0]);
    }
}
