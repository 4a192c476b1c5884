//! What the elements of a tensor are off by, as one look at them shows it, and where that gives alarm.

use std::borrow::Cow;

use rayon::prelude::*;

use super::{Measured, Run, has_heads};
use crate::budget;
use crate::compare::Pair;
use crate::dtype::Dtype;
use crate::measure::{Even, Layout};

pub(super) struct Look<'a> {
    /// What each element is off by: its error, or the part of it that this look shows.
    pub off: Cow<'a, [f64]>,
    /// What it would have to be off by to stand out.
    pub alarm: Vec<f64>,
}

impl Look<'_> {
    /// How far beyond the alarm an element is, or how near to it: from −1 to 1 it is within.
    pub fn share(&self, k: usize) -> f64 {
        self.off[k] / self.alarm[k]
    }

    /// The same of two looks that have no rounding in common. Each says what the element is off by, the more surely the lower its
    /// alarm: their mean, weighted by that, is as many deviations out at its own alarm as they are at theirs.
    pub fn share_with(&self, other: &Self, k: usize) -> f64 {
        let (mine, its) = (self.alarm[k], other.alarm[k]);
        (self.share(k) * its + other.share(k) * mine) / mine.hypot(its)
    }

    /// What the error of an element might be, which is `error`.
    pub fn passes(&self, k: usize, error: f64) -> f64 {
        let beyond = self.share(k).abs();
        match self.off {
            Cow::Borrowed(_) => self.alarm[k],
            Cow::Owned(_) if beyond > 1.0 => error.abs() / beyond,
            Cow::Owned(_) => f64::INFINITY,
        }
    }
}

impl Run<'_> {
    /// What no error may stand out of: the noise, or, where the step can be computed again from what it read, what it adds to
    /// the noise of that.
    pub(super) fn look<'m>(&mut self, pair: &Pair<'_>, measured: &'m Measured, dtype: Dtype) -> Option<Look<'m>> {
        let Measured { x, errors, layout, .. } = measured;
        let noise = Even {
            errors: &errors.error,
            magnitude: &errors.magnitude,
            layout: *layout,
            tail: budget::OUTLIER_NOISE,
            dtype,
        };
        let own = self.steps().and_then(|steps| steps.own_error(&pair.canonical, x, &errors.error));
        let Some(own) = own else {
            return Some(Look { alarm: noise.budgets()?, off: Cow::Borrowed(&errors.error) });
        };
        let even = Even { errors: &own, tail: budget::OUTLIER_OWN, ..noise };
        let mut alarm = even.budgets()?;
        // The rounding of a projection is most of its noise; of other products sums are looked at where an element stands out.
        let stands_out = || own.par_iter().zip(&alarm).any(|(own, alarm)| own.abs() > *alarm);
        if has_heads(&pair.canonical) || stands_out() {
            let rounded = self.steps().and_then(|steps| steps.rounded(&pair.canonical, &own, &errors.magnitude));
            if let Some(rounded) = rounded {
                // Weights differ by column alone, whatever the head.
                let layout = Layout::of(pair.expected.shape(), None);
                alarm = Even { magnitude: &rounded, layout, tail: budget::OUTLIER_SUMS, ..even }.budgets()?;
            }
        }
        Some(Look { off: Cow::Owned(own), alarm })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(off: f64, alarm: f64) -> Look<'static> {
        Look { off: Cow::Owned(vec![off]), alarm: vec![alarm] }
    }

    #[test]
    fn two_looks_say_more_than_either() {
        // As the lengths of independent deviations add up: the root of the sum of their squares, where both say the same.
        assert!((look(0.8, 1.0).share_with(&look(0.8, 1.0), 0) - 0.8 * 2f64.sqrt()).abs() < 1e-12);
        assert!(look(0.8, 1.0).share_with(&look(-0.8, 1.0), 0).abs() < 1e-12);
        // The surer one decides: what is a half of one alarm and a twentieth of another is not more than the half.
        assert!(look(0.5, 1.0).share_with(&look(0.5, 10.0), 0) < 0.51);
        // That the surer one sees nothing outweighs what the other sees.
        assert!(look(2.0, 2.0).share_with(&look(0.0, 0.2), 0) < 0.1);
    }
}
