//! Which positions are padding, as the attention mask has it.

use crate::compare::Positions;
use crate::dump::Dump;
use crate::measure;

/// Which positions are padding.
pub(crate) struct Mask {
    batch: usize,
    length: usize,
    valid: Vec<bool>,
}

impl Mask {
    /// That of a dump, if it holds one of one row a sequence.
    pub fn of(dump: &Dump) -> Option<Self> {
        let mask = dump.get("attention_mask")?;
        let &[batch, length] = mask.shape() else { return None };
        Some(Self { batch, length, valid: mask.values().map(|v| v != 0.0).collect() })
    }

    /// Whether element `k` of a tensor of this shape belongs to a padded position; `None` where the shape does not tell.
    ///
    /// # Shapes
    /// [B, L, …] by its token; [B, H, Q, K] by its query and its key.
    pub fn is_padded(&self, shape: &[usize], k: usize) -> Option<bool> {
        let index = measure::multi_index(shape, k);
        let valid = |b: usize, i: usize| self.valid[b * self.length + i];
        match *shape {
            [b, _, q, l] if b == self.batch && q == self.length && l == self.length => {
                Some(!(valid(index[0], index[2]) && valid(index[0], index[3])))
            }
            [b, l, _] | [b, l] if b == self.batch && l == self.length => Some(!valid(index[0], index[1])),
            _ => None,
        }
    }

    /// Where these elements are; `None` where the shape does not tell, or there are none.
    pub fn positions(&self, shape: &[usize], elements: &[usize]) -> Option<Positions> {
        let (mut padded, mut valid) = (false, false);
        for &k in elements {
            match self.is_padded(shape, k)? {
                true => padded = true,
                false => valid = true,
            }
        }
        match (valid, padded) {
            (true, false) => Some(Positions::Valid),
            (false, true) => Some(Positions::Padded),
            (true, true) => Some(Positions::Both),
            (false, false) => None,
        }
    }
}
