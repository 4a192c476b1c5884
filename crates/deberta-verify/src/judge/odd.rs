//! Single elements that something other than the noise around them gives away, each with the error that would have passed.

use std::borrow::Cow;
use std::collections::BTreeMap;

use rayon::prelude::*;

use super::look::Look;
use super::{Measured, Run, magnitude, probabilities, twins};
use crate::budget;
use crate::compare::Pair;
use crate::dtype::Dtype;
use crate::measure::{Errors, Even, Lines, Magnitude, multi_index};
use crate::order;
use crate::tensor::Tensor;

impl Run<'_> {
    /// Elements that contradict their scores, what read them, or what was computed from the same numbers.
    pub(super) fn odd_elements(
        &mut self,
        pair: &Pair<'_>,
        measured: &Measured,
        dtype: Dtype,
        look: Option<&Look<'_>>,
    ) -> Vec<(usize, f64)> {
        let mut odd = self.odd_probabilities(pair, &measured.x, &measured.errors, dtype);
        let unread = look.map(|look| self.unread(pair, measured, dtype, look)).unwrap_or_default();
        let columns = pair.expected.shape().last().copied().unwrap_or(0);
        let apart = twins::apart(measured, columns, dtype);
        let at = |k: usize| multi_index(pair.expected.shape(), k);
        let name = pair.expected_name;
        let mut notes = Vec::new();
        if let Some((k, _)) = unread.first() {
            notes.push(format!(
                "{name} at {:?}: what reads it was computed from another number, which is nearer the expected one; \
                 it was changed after that, or dumped wrong",
                at(*k)
            ));
        }
        if let Some(apart) = apart.first() {
            notes.push(format!(
                "{name} at {:?} should be what it is at {:?}, as all of their rows are in the expected dump; it is off by {:.1e}",
                at(apart.element),
                at(apart.twin),
                apart.by
            ));
        }
        if self.rows.iter().all(|row| row.within) {
            self.notes.extend(notes);
        }
        odd.extend(unread);
        odd.extend(apart.iter().map(|a| (a.element, measured.errors.error[a.element].abs() * a.allowed / a.by)));
        odd
    }

    /// Elements that are not what was read of them, with the error that would have passed: what the readers say and what the
    /// tensor itself shows, taken together.
    fn unread(&mut self, pair: &Pair<'_>, measured: &Measured, dtype: Dtype, look: &Look<'_>) -> Vec<(usize, f64)> {
        let Measured { errors, layout, .. } = measured;
        let tail = budget::OUTLIER_UNREAD;
        let least = Even::least(tail, dtype);
        let nearest = (0..look.alarm.len()).into_par_iter().map(|k| look.share(k).abs()).reduce(|| 0.0, f64::max);
        let missing = least * (1.0 - nearest.min(1.0).powi(2)).sqrt();
        let unread = self.steps().and_then(|steps| steps.unread(&pair.canonical, errors.error.len(), missing));
        let Some(unread) = unread else { return Vec::new() };
        let part = budget::OUTLIER_UNREAD_PART;
        let suspects = unread.suspects(&look.off, &look.alarm, least, part);
        if suspects.is_empty() {
            return Vec::new();
        }
        let (off, blur) = unread.solve();
        let even = Even { errors: &off, magnitude: &blur, layout: *layout, tail, dtype };
        let Some(alarm) = even.budgets_by_line(unread.lines) else { return Vec::new() };
        let readers = Look { off: Cow::Borrowed(&off), alarm };
        let beyond = |k: usize| look.share_with(&readers, k).abs();
        let agree = |k: usize| (off[k] - look.off[k]).abs() <= part * look.off[k].hypot(readers.alarm[k]);
        // Of a line the furthest: others look so because of it.
        let mut furthest: BTreeMap<(usize, usize), usize> = BTreeMap::new();
        for k in suspects.into_iter().filter(|&k| agree(k) && beyond(k) > look.share(k).abs().max(1.0)) {
            let (group, row, column) = layout.place(k);
            let line = if unread.lines == Lines::Rows { row } else { column };
            let held = furthest.entry((group, line)).or_insert(k);
            if beyond(k) > beyond(*held) {
                *held = k;
            }
        }
        furthest.into_values().map(|k| (k, errors.error[k].abs() / beyond(k))).collect()
    }

    /// Probabilities that do not follow from their scores, or make their row add up to something else, with the error that
    /// would have passed.
    fn odd_probabilities(&self, pair: &Pair<'_>, x: &[f64], errors: &Errors, dtype: Dtype) -> Vec<(usize, f64)> {
        let Some(&columns) = pair.expected.shape().last().filter(|&&c| c > 0) else { return Vec::new() };
        if magnitude(&pair.canonical) != Magnitude::Own {
            return Vec::new();
        }
        let mut odd = probabilities::of_wrong_sums(x, errors, columns, dtype);
        let scores = order::scores_of(&pair.canonical);
        let of = |side: &BTreeMap<String, &Tensor>| Some(side.get(scores.as_ref()?)?.widened());
        if let (Some(s), Some(t)) = (of(&self.expected), of(&self.actual))
            && [s.len(), t.len()] == [x.len(); 2]
        {
            let found: Vec<f64> = x.iter().zip(&errors.error).map(|(x, e)| x + e).collect();
            let expected = probabilities::Side { probabilities: x, scores: &s };
            let actual = probabilities::Side { probabilities: &found, scores: &t };
            odd.extend(probabilities::unlike_their_row(&expected, &actual, errors, columns, dtype));
        }
        odd
    }
}
