//! The precompiled character map of a SentencePiece model: which strings become which others.
//!
//! Layout: a `u32` length in bytes, a double-array trie of that length, then the replacements, each ended by a NUL. A
//! leaf of the trie holds the byte at which its replacement starts. At every position of the text the longest string of
//! the map is replaced, and the text is not looked at again.
//!
//! The trie (darts-clone): a unit is a `u32`. Bits 0-7 and 31 are its label, bit 8 says that a leaf hangs below it, bits
//! 10-31 are the offset to its children, shifted left by 8 where bit 9 is set. From the unit at `node`, byte `b` leads to
//! `node ^ offset ^ b`, if the label there is `b`. A leaf's low 31 bits are its value. The file is not trusted: a step
//! that leaves the array ends the search, as no string of a sound map does.

/// A precompiled character map.
#[derive(Clone, Debug)]
pub(crate) struct CharMap {
    units: Vec<u32>,
    /// Each replacement ends at a NUL; checked to end with one.
    replacements: String,
}

/// What is wrong with a character map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BrokenCharMap(pub &'static str);

impl CharMap {
    /// Reads the map; every rule that SentencePiece checks is checked.
    pub fn read(blob: &[u8]) -> Result<Self, BrokenCharMap> {
        let (length, rest) = blob.split_first_chunk().ok_or(BrokenCharMap("is shorter than its own header"))?;
        let length = u32::from_le_bytes(*length) as usize;
        if length >= rest.len() {
            return Err(BrokenCharMap("states a trie longer than itself"));
        }
        if length < 1024 || !length.is_multiple_of(1024) {
            return Err(BrokenCharMap("states a trie whose length is not a multiple of 1024"));
        }
        let (trie, replacements) = rest.split_at(length);
        let replacements = std::str::from_utf8(replacements).map_err(|_| BrokenCharMap("replaces by invalid UTF-8"))?;
        if !replacements.ends_with('\0') {
            return Err(BrokenCharMap("does not end its last replacement"));
        }
        let units: Vec<u32> = trie.chunks_exact(4).map(|c| u32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect();
        let map = Self { units, replacements: replacements.to_owned() };
        // This keeps other readers of the map, which do not look, within it too.
        if !(0..map.units.len()).all(|node| map.stays_within(node)) {
            return Err(BrokenCharMap("has a trie that leads out of itself"));
        }
        Ok(map)
    }

    /// Whether all that a unit leads to is there: the block of its children, and its leaf with a replacement.
    fn stays_within(&self, node: usize) -> bool {
        let unit = self.units[node];
        if label(unit) > 255 {
            return self.replacements.is_char_boundary(value(unit)) && value(unit) < self.replacements.len();
        }
        let children = node ^ offset(unit) as usize;
        children | 255 < self.units.len() && (!has_leaf(unit) || label(self.units[children]) > 255)
    }

    /// The longest string of the map that `text` starts with: its length in bytes, and what replaces it.
    pub fn longest_prefix(&self, text: &[u8]) -> Option<(usize, &str)> {
        let mut found = None;
        let mut node = offset(*self.units.first()?) as usize;
        for (i, &byte) in text.iter().enumerate() {
            node ^= usize::from(byte);
            let Some(&unit) = self.units.get(node) else { break };
            if label(unit) != u32::from(byte) {
                break;
            }
            node ^= offset(unit) as usize;
            if has_leaf(unit) {
                let Some(&leaf) = self.units.get(node) else { break };
                found = Some((i + 1, value(leaf)));
            }
        }
        let (length, start) = found?;
        let rest = self.replacements.get(start..).filter(|r| !r.is_empty())?;
        Some((length, &rest[..rest.find('\0')?]))
    }

    /// Whether no string of the map is, or starts with, this ASCII byte alone or followed by another ASCII byte: then
    /// the map leaves it as it is wherever an ASCII byte or the end follows.
    pub fn leaves_ascii(&self, byte: u8) -> bool {
        let child = |node: usize, unit: u32, byte: u8| {
            let node = node ^ offset(unit) as usize ^ usize::from(byte);
            self.units.get(node).filter(|u| label(**u) == u32::from(byte)).map(|&unit| (node, unit))
        };
        let Some(&root) = self.units.first() else { return true };
        let Some((node, unit)) = child(0, root, byte) else { return true };
        !has_leaf(unit) && (0..128).all(|next| child(node, unit, next).is_none())
    }
}

fn has_leaf(unit: u32) -> bool {
    unit >> 8 & 1 == 1
}

fn value(unit: u32) -> usize {
    (unit & (u32::MAX >> 1)) as usize
}

fn label(unit: u32) -> u32 {
    unit & (1 << 31 | 0xff)
}

fn offset(unit: u32) -> u32 {
    (unit >> 10) << ((unit & 1 << 9) >> 6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_sentencepiece_refuses() {
        let blob = |length: u32, rest: &[u8]| [&length.to_le_bytes(), rest].concat();
        for (bytes, why) in [
            (vec![1, 2], "is shorter than its own header"),
            (blob(4096, &[0; 100]), "states a trie longer than itself"),
            (blob(1000, &[0; 2000]), "states a trie whose length is not a multiple of 1024"),
            (blob(1024, &[1; 1030]), "does not end its last replacement"),
            (blob(1024, &[0xff; 1030]), "replaces by invalid UTF-8"),
        ] {
            assert_eq!(CharMap::read(&bytes).unwrap_err(), BrokenCharMap(why));
        }
    }

    /// A trie of noise leads anywhere: it is refused, and even a search in it ends within the array.
    #[test]
    fn noise_is_harmless() {
        let mut state = 1u32;
        let mut noise = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.rotate_left(16)
        };
        let units: Vec<u32> = (0..1024).map(|_| noise()).collect();
        let bytes: Vec<u8> = units.iter().flat_map(|u| u.to_le_bytes()).collect();
        let read = CharMap::read(&[&4096u32.to_le_bytes()[..], &bytes, b"abc\0"].concat());
        assert_eq!(read.unwrap_err(), BrokenCharMap("has a trie that leads out of itself"));
        let map = CharMap { units, replacements: "abc\0".to_owned() };
        for a in 0..=255u8 {
            for b in 0..=255u8 {
                let found = map.longest_prefix(&[a, b, a, b, b]);
                assert!(found.is_none_or(|(taken, new)| taken <= 5 && "abc".ends_with(new)));
            }
        }
    }
}
