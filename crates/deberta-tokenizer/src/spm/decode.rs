//! Pieces to text (`sentencepiece_processor.cc`, `SentencePieceProcessor::Decode`).

use super::normalizer::SPACE;
use super::{PieceType, SentencePiece};

/// The byte that a piece `<0x00>` … `<0xFF>` stands for.
pub(super) fn byte_of(piece: &str) -> Option<u8> {
    let digits = piece.strip_prefix("<0x")?.strip_suffix('>')?;
    let canonical = digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b));
    if canonical { u8::from_str_radix(digits, 16).ok() } else { None }
}

impl SentencePiece {
    /// The text of a list of ids. Ids beyond the model are passed over: [`crate::Tokenizer::decode`] knows what they are.
    ///
    /// 1. Control pieces yield nothing; the unknown piece yields the model's surface for it, by default ` ⁇ `.
    /// 2. A run of byte pieces is read as UTF-8; each byte that is not of it yields U+FFFD.
    /// 3. `▁` yields a space, except at the very front.
    pub fn decode(&self, ids: &[u32]) -> String {
        let mut text = String::new();
        let mut bytes = Vec::new();
        let (mut at_front, mut dropped_space) = (true, false);
        for &id in ids {
            let Some((piece, kind, _)) = self.pieces.entries.get(id as usize) else { continue };
            if *kind == PieceType::Byte {
                bytes.extend(byte_of(piece));
                continue;
            }
            push_bytes(&mut text, &mut bytes);
            if dropped_space || !text.is_empty() {
                at_front = false;
            }
            dropped_space = false;
            match kind {
                PieceType::Control => {}
                PieceType::Unknown => text.push_str(&self.unknown_surface),
                _ => {
                    let mut piece = piece.as_str();
                    if at_front
                        && self.normalizer.drops_first_space()
                        && let Some(rest) = piece.strip_prefix(SPACE)
                    {
                        piece = rest;
                        // With extra white space removed, every `▁` at the front goes.
                        dropped_space = !self.normalizer.removes_extra_whitespaces();
                    }
                    text.push_str(&piece.replace(SPACE, " "));
                }
            }
        }
        push_bytes(&mut text, &mut bytes);
        match &self.denormalizer {
            Some(denormalizer) => denormalizer.normalize(&text).text,
            None => text,
        }
    }
}

/// Appends bytes read as UTF-8. Unlike the usual lossy reading, every byte that is not part of a character becomes a
/// U+FFFD of its own.
fn push_bytes(text: &mut String, bytes: &mut Vec<u8>) {
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        match std::str::from_utf8(rest) {
            Ok(valid) => {
                text.push_str(valid);
                break;
            }
            Err(e) => {
                let (valid, invalid) = rest.split_at(e.valid_up_to());
                text.push_str(&String::from_utf8_lossy(valid));
                text.push('\u{fffd}');
                rest = &invalid[1..];
            }
        }
    }
    bytes.clear();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_pieces() {
        assert_eq!(byte_of("<0x00>"), Some(0));
        assert_eq!(byte_of("<0xFF>"), Some(255));
        for not in ["<0xff>", "<0x+1>", "<0x0>", "<0x000>", "0x00", "<0xG0>"] {
            assert_eq!(byte_of(not), None, "{not}");
        }
    }

    #[test]
    fn broken_bytes_become_one_replacement_each() {
        let read = |bytes: &[u8]| {
            let mut text = String::new();
            push_bytes(&mut text, &mut bytes.to_vec());
            text
        };
        assert_eq!(read(b"\xf0\x9f\xa4\x94"), "🤔");
        assert_eq!(read(b"\xf0\x9f\xa4"), "\u{fffd}\u{fffd}\u{fffd}");
        assert_eq!(read(b"a\xffb\xe4\xb8\xad"), "a\u{fffd}b中");
    }
}
