//! The batches of a benchmark: how many sequences, how long, and what tokens.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use deberta_model::{DebertaV2Config, Head, Inputs};
use ndarray::{Array2, Axis};

use crate::error::Error;
use crate::random::Random;

/// Batches above this are taken for a slip of the hand.
const MOST_TOKENS: usize = 1 << 24;

/// The lengths of the sequences of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchShape {
    lengths: Vec<usize>,
    ragged: bool,
}

impl BatchShape {
    /// Sequences of lengths of their own, padded to the longest.
    ///
    /// # Errors
    /// No sequence, an empty one, or too many tokens.
    pub fn ragged(lengths: Vec<usize>) -> Result<Self, String> {
        let longest = lengths.iter().copied().max().unwrap_or(0);
        if lengths.contains(&0) || longest == 0 {
            return Err("a batch holds at least one sequence, and a sequence at least one token".to_owned());
        }
        match lengths.len().checked_mul(longest) {
            Some(tokens) if tokens <= MOST_TOKENS => Ok(Self { lengths, ragged: true }),
            _ => Err(format!("a batch of more than {MOST_TOKENS} tokens")),
        }
    }

    /// The length of each sequence.
    pub fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    /// Random tokens, the same for the same shape and vocabulary; a ragged batch comes with its mask.
    pub fn inputs<T>(&self, config: &DebertaV2Config, head: Head) -> Inputs<T> {
        let seed = self.lengths.iter().fold(0, |seed: u64, &l| seed.wrapping_mul(31).wrapping_add(l as u64));
        let mut random = Random::new(seed);
        let longest = self.lengths.iter().copied().max().unwrap_or(0);
        let pad = config.pad_token_id.unwrap_or(0);
        let mut ids = Array2::from_elem((self.lengths.len(), longest), pad); // [B, L]
        let mut mask = Array2::<i64>::zeros(ids.raw_dim());
        for ((mut ids, mut mask), &length) in ids.rows_mut().into_iter().zip(mask.rows_mut()).zip(&self.lengths) {
            for at in 0..length {
                ids[at] = random.below(config.vocab_size) as i64;
                mask[at] = 1;
            }
        }
        // A choice each, where sequences are choices.
        let shaped = |rows: Array2<i64>| match head {
            Head::MultipleChoice => rows.insert_axis(Axis(1)).into_dyn(),
            _ => rows.into_dyn(),
        };
        Inputs {
            input_ids: Some(shaped(ids)),
            attention_mask: self.ragged.then(|| shaped(mask)),
            inputs_embeds: None,
            decoder_attention_mask: None,
            token_type_ids: None,
            position_ids: None,
            labels: None,
            start_positions: None,
            end_positions: None,
        }
    }
}

impl FromStr for BatchShape {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no shape; write sequences x tokens, such as 8x128");
        let (size, length) = text.split_once(['x', '×']).ok_or_else(wrong)?;
        let number = |part: &str| part.trim().parse::<usize>().ok().filter(|&n| n > 0).ok_or_else(wrong);
        let (size, length) = (number(size)?, number(length)?);
        match size.checked_mul(length) {
            Some(tokens) if tokens <= MOST_TOKENS => Ok(Self { lengths: vec![length; size], ragged: false }),
            _ => Err(format!("`{text}` is more than {MOST_TOKENS} tokens")),
        }
    }
}

impl fmt::Display for BatchShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.lengths.first() {
            Some(length) if !self.ragged => write!(f, "{}x{length}", self.lengths.len()),
            _ => f.write_str("ragged"),
        }
    }
}

/// The ragged batch of a file with one length a line; empty lines and what follows `#` are left out.
///
/// # Errors
/// A file that cannot be read, or a line that is no length.
pub fn read_lengths(path: &Path) -> Result<BatchShape, Error> {
    let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
    let wrong = |reason: String| Error::Lengths { path: path.to_owned(), reason };
    let mut lengths = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        let length = line.parse::<usize>().ok().filter(|&l| l > 0);
        lengths.push(length.ok_or_else(|| wrong(format!("line {} is no length: `{line}`", at + 1)))?);
    }
    BatchShape::ragged(lengths).map_err(wrong)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_read_and_written() {
        for (text, size, length) in [("1x16", 1, 16), ("8×128", 8, 128)] {
            let shape: BatchShape = text.parse().unwrap();
            assert_eq!(shape.lengths(), vec![length; size]);
            assert_eq!(shape.to_string(), text.replace('×', "x"));
        }
        for text in ["", "8", "x", "0x4", "4x0", "-1x3", "2x3x4", "1.5x2", "99999999x99999999"] {
            assert!(text.parse::<BatchShape>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_ragged_batch_has_its_mask_and_the_padding_token() {
        let shape = BatchShape::ragged(vec![2, 5, 1]).unwrap();
        assert_eq!(shape.to_string(), "ragged");
        let config = DebertaV2Config::from_value(serde_json::json!({"vocab_size": 50, "pad_token_id": 7})).unwrap();
        let inputs = shape.inputs::<f32>(&config, Head::Base);
        let (ids, mask) = (inputs.input_ids.unwrap(), inputs.attention_mask.unwrap());
        assert_eq!(mask.sum_axis(Axis(1)).into_raw_vec_and_offset().0, [2, 5, 1]);
        assert!(ids.iter().zip(&mask).all(|(&id, &seen)| (0..50).contains(&id) && (seen == 1 || id == 7)));
        let choices = shape.inputs::<f32>(&config, Head::MultipleChoice);
        assert_eq!(choices.input_ids.unwrap().shape(), [3, 1, 5]);
        assert!(BatchShape::ragged(vec![]).is_err() && BatchShape::ragged(vec![3, 0]).is_err());
    }

    #[test]
    fn files_of_lengths() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "# lengths\n12\n\n 7 # short\n").unwrap();
        assert_eq!(read_lengths(file.path()).unwrap().lengths(), [12, 7]);
        for (text, said) in [("12\nlong\n", "line 2"), ("0\n", "line 1"), ("", "at least one")] {
            std::fs::write(file.path(), text).unwrap();
            let error = read_lengths(file.path()).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }
}
