//! Cutting texts to a length, and into windows.

use std::ops::Range;

use crate::encoding::{Side, Truncation, TruncationStrategy};
use crate::error::{Result, TokenizerError};

/// Who gets the odd token where both texts of a pair are cut to half the room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OddToken {
    /// The first text: transformers 4's slow tokenizer (`truncate_sequences`).
    First,
    /// The longer text, and the second where they are equally long: the tokenizers library (`truncate_encodings`).
    Longer,
}

/// How many tokens each text keeps, `added` being the special tokens around them.
pub(crate) fn lengths(
    (first, second): (usize, Option<usize>),
    truncation: &Truncation,
    added: usize,
    odd: OddToken,
) -> Result<(usize, usize)> {
    let max_length = truncation.max_length;
    let too_short = |needed, reason| TokenizerError::MaxLengthTooShort { max_length, needed, reason };
    let room = max_length.checked_sub(added).ok_or_else(|| too_short(added, " for the special tokens alone"))?;
    let (a, b) = (first, second.unwrap_or(0));
    let Some(excess) = (a + b).checked_sub(room).filter(|e| *e > 0) else { return Ok((a, b)) };
    let keep = |length: usize, other: usize, reason| {
        let needed = added + other + 1;
        length.checked_sub(excess).filter(|kept| *kept > 0).ok_or_else(|| too_short(needed, reason))
    };
    match (truncation.strategy, second) {
        (TruncationStrategy::LongestFirst, None) => Ok((room, 0)),
        (TruncationStrategy::LongestFirst, Some(_)) => Ok(longest_first(a, b, room, odd)),
        (TruncationStrategy::OnlyFirst, _) => Ok((keep(a, b, " if only the first text is cut; try longest_first")?, b)),
        (TruncationStrategy::OnlySecond, None) => Err(TokenizerError::NoSecondText),
        (TruncationStrategy::OnlySecond, Some(_)) => {
            Ok((a, keep(b, a, " if only the second text is cut; try longest_first")?))
        }
    }
}

fn longest_first(a: usize, b: usize, room: usize, odd: OddToken) -> (usize, usize) {
    let shorter = a.min(b);
    if shorter <= room / 2 {
        let rest = room - shorter;
        return if a <= b { (a, rest.min(b)) } else { (rest.min(a), b) };
    }
    let (half, rest) = (room / 2, room - room / 2);
    match odd {
        OddToken::First => (rest, half),
        OddToken::Longer if a > b => (rest, half),
        OddToken::Longer => (half, rest),
    }
}

/// The windows of `window` tokens over a text of `length`, each with `stride` tokens of the one before: the part that is
/// kept, and the parts that overflow.
pub(crate) fn windows(length: usize, window: usize, stride: usize, side: Side) -> Result<Vec<Range<usize>>> {
    if window == 0 && length > 0 {
        return Ok(vec![0..0, 0..length]);
    }
    if stride >= window && window < length {
        return Err(TokenizerError::StrideTooLong { stride, window });
    }
    let mut windows = Vec::new();
    let mut cut_off = 0;
    loop {
        let reach = (cut_off + window).min(length);
        windows.push(match side {
            Side::Right => cut_off..reach,
            Side::Left => length - reach..length - cut_off,
        });
        if reach == length {
            return Ok(windows);
        }
        cut_off += window - stride;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(
        a: usize,
        b: Option<usize>,
        max_length: usize,
        strategy: TruncationStrategy,
        odd: OddToken,
    ) -> (usize, usize) {
        lengths((a, b), &Truncation { strategy, ..Truncation::to(max_length) }, 0, odd).unwrap()
    }

    #[test]
    fn the_odd_token() {
        use OddToken::{First, Longer};
        use TruncationStrategy::LongestFirst;
        for (a, b, first, longer) in [(10, 10, (4, 3), (3, 4)), (9, 20, (4, 3), (3, 4)), (20, 9, (4, 3), (4, 3))] {
            assert_eq!(cut(a, Some(b), 7, LongestFirst, First), first);
            assert_eq!(cut(a, Some(b), 7, LongestFirst, Longer), longer);
        }
        for odd in [First, Longer] {
            assert_eq!(cut(2, Some(20), 7, LongestFirst, odd), (2, 5));
            assert_eq!(cut(20, Some(2), 7, LongestFirst, odd), (5, 2));
            assert_eq!(cut(3, Some(4), 7, LongestFirst, odd), (3, 4));
            assert_eq!(cut(4, Some(4), 0, LongestFirst, odd), (0, 0));
        }
    }

    /// Token by token from the longer text, as the strategy is defined.
    #[test]
    fn longest_first_is_token_by_token() {
        for a in 0..12usize {
            for b in 0..12usize {
                for room in 0..=a + b {
                    let (mut x, mut y) = (a, b);
                    while x + y > room {
                        if x > y { x -= 1 } else { y -= 1 }
                    }
                    let got = cut(a, Some(b), room, TruncationStrategy::LongestFirst, OddToken::First);
                    assert_eq!(got, (x, y), "{a} {b} {room}");
                }
            }
        }
    }

    #[test]
    fn windows_cover_the_text() {
        assert_eq!(windows(10, 4, 1, Side::Right).unwrap(), [0..4, 3..7, 6..10]);
        assert_eq!(windows(10, 4, 1, Side::Left).unwrap(), [6..10, 3..7, 0..4]);
        assert_eq!(windows(9, 4, 2, Side::Left).unwrap(), [5..9, 3..7, 1..5, 0..3]);
        assert_eq!(windows(3, 4, 9, Side::Right).unwrap().first(), Some(&(0..3)));
        assert_eq!(windows(5, 0, 0, Side::Right).unwrap(), [0..0, 0..5]);
        assert!(matches!(windows(10, 4, 4, Side::Right), Err(TokenizerError::StrideTooLong { stride: 4, window: 4 })));
    }

    #[test]
    fn refuses_what_cannot_be_cut() {
        let lengths =
            |a, b, strategy| lengths((a, b), &Truncation { strategy, ..Truncation::to(6) }, 3, OddToken::First);
        assert!(matches!(lengths(9, None, TruncationStrategy::OnlySecond), Err(TokenizerError::NoSecondText)));
        let short = lengths(2, Some(5), TruncationStrategy::OnlyFirst).unwrap_err();
        assert!(matches!(short, TokenizerError::MaxLengthTooShort { max_length: 6, needed: 9, .. }));
    }
}
