//! From logits to scores, as numpy computes them in `f32`: each step rounded, sums wide.

use std::cmp::Ordering;

/// exp(x − max) / Σ exp(x − max).
pub(crate) fn softmax(logits: &[f32]) -> Vec<f32> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers: Vec<f32> = logits.iter().map(|x| exp(x - max)).collect();
    let sum = sum(&powers);
    powers.iter().map(|p| p / sum).collect()
}

/// exp(x) / Σ exp(x): without the maximum taken off first, as the zero-shot pipeline has it.
pub(crate) fn plain_softmax(logits: &[f32]) -> Vec<f32> {
    let powers: Vec<f32> = logits.iter().map(|&x| exp(x)).collect();
    let sum = sum(&powers);
    powers.iter().map(|p| p / sum).collect()
}

/// 1 / (1 + exp(−x)).
pub(crate) fn sigmoid(logit: f32) -> f32 {
    1.0 / (1.0 + exp(-logit))
}

/// The exponential, correctly rounded but for the rarest of cases.
pub(crate) fn exp(x: f32) -> f32 {
    f64::from(x).exp() as f32
}

/// The sum, rounded once.
pub(crate) fn sum(values: &[f32]) -> f32 {
    values.iter().copied().map(f64::from).sum::<f64>() as f32
}

/// The mean, with the sum and the quotient rounded.
pub(crate) fn mean(values: &[f32]) -> f32 {
    sum(values) / values.len() as f32
}

/// The place of the largest, the first of equals. There must be one.
pub(crate) fn argmax(values: &[f32]) -> usize {
    let mut best = 0;
    for (i, value) in values.iter().enumerate() {
        if *value > values[best] {
            best = i;
        }
    }
    best
}

/// Largest first; NaN last.
pub(crate) fn descending(a: f32, b: f32) -> Ordering {
    b.partial_cmp(&a).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
}

/// The first `count` of `items` in an order that leaves no ties, sorted; the rest is never sorted.
pub(crate) fn first_sorted<T>(mut items: Vec<T>, count: usize, order: impl Fn(&T, &T) -> Ordering) -> Vec<T> {
    if count < items.len() {
        items.select_nth_unstable_by(count, &order);
        items.truncate(count);
    }
    items.sort_unstable_by(order);
    items
}

/// The places of the `count` largest, largest first, and among equals in their order.
pub(crate) fn largest(values: &[f32], count: usize) -> Vec<usize> {
    let by_value = |&a: &usize, &b: &usize| descending(values[a], values[b]).then(a.cmp(&b));
    first_sorted((0..values.len()).collect(), count, by_value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_in_order() {
        let values = [0.5, 2.0, 2.0, -1.0, 2.0, f32::NAN];
        assert_eq!(largest(&values, 4), [1, 2, 4, 0]);
        assert_eq!(largest(&values, 9), [1, 2, 4, 0, 3, 5]);
        assert_eq!(largest(&values, 0), [0_usize; 0]);
        assert_eq!(argmax(&values), 1);
    }

    #[test]
    fn scores_sum_to_one() {
        let logits = [1e4, 1e4 - 1.0, 3.0, -1e4];
        assert!((sum(&softmax(&logits)) - 1.0).abs() < 1e-6);
        assert_eq!(softmax(&logits)[3], 0.0);
        assert_eq!(sigmoid(0.0), 0.5);
        assert_eq!(sigmoid(200.0), 1.0);
        assert_eq!(mean(&[1.0, 2.0, 4.5]), 2.5);
        assert_eq!(plain_softmax(&[0.0, 0.0]), [0.5, 0.5]);
    }
}
