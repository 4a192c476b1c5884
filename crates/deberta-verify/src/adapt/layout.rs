//! A tensor in another layout than the expected one: axes in another order, split, joined, or of size 1.
//!
//! The rule: the expected shape, without axes of size 1, and with the last axis split into heads where the number of heads is
//! known and that helps, is a list of atoms. A layout is an order of the atoms, of which neighbours may be joined. If exactly
//! one layout has the actual shape, it is taken. If several have, the one is taken under which the values are close to the
//! expected ones, and none else nearly as close. Otherwise the shapes stay different, which is an error of the comparison,
//! and a note says which orders would fit.
//!
//! # Shapes
//! [L, B, E] for [B, L, E] is the order (1, 0, 2); [B, L, H, D] is [B, L, E] with E split; [B, H, L, D] the order
//! (0, 2, 1, 3) of that; [B·H, L, L] is [B, H, L, L] with its first two joined.

use std::collections::BTreeMap;

use super::guess::{MARGIN, Sample, WIDEST};
use crate::dump::Dump;
use crate::order::spelling;
use crate::tensor::Tensor;

/// Orders of more atoms than this are not tried: [B, H, L, L] and one more.
const MAX_ATOMS: usize = 5;

/// A way to read the actual tensor as the expected one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// The sizes of the atoms, in the expected order.
    atoms: Vec<usize>,
    /// How far apart in the actual tensor two neighbours along each atom are.
    strides: Vec<usize>,
    /// The place of each actual atom in the expected order.
    pub axes: Vec<usize>,
}

impl Layout {
    fn new(atoms: &[usize], axes: &[usize]) -> Self {
        let mut strides = vec![0; atoms.len()];
        let mut step = 1;
        for &axis in axes.iter().rev() {
            strides[axis] = step;
            step *= atoms[axis];
        }
        Self { atoms: atoms.to_vec(), strides, axes: axes.to_vec() }
    }

    /// Whether the order of the elements is the expected one.
    pub fn keeps_order(&self) -> bool {
        self.axes.is_sorted()
    }

    /// The place in the actual tensor of place `k` of the expected one.
    pub fn place(&self, mut k: usize) -> usize {
        let mut place = 0;
        for (&size, &stride) in self.atoms.iter().zip(&self.strides).rev() {
            place += k % size * stride;
            k /= size;
        }
        place
    }
}

impl std::fmt::Display for Layout {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} in the order {:?}", self.atoms, self.axes)
    }
}

/// The layouts in which `actual` is `expected`; none where the elements are not as many.
pub(super) fn layouts(expected: &[usize], actual: &[usize], heads: Option<usize>) -> Vec<Layout> {
    let plain = without_ones(expected);
    let shape = without_ones(actual);
    let count = |s: &[usize]| s.iter().product::<usize>();
    if count(&plain) != count(&shape) || count(&plain) == 0 {
        return Vec::new();
    }
    // In the same order, whatever is joined or split.
    if joins(&shape, &plain) || joins(&plain, &shape) {
        return vec![Layout::new(&plain, &(0..plain.len()).collect::<Vec<_>>())];
    }
    let found = orders_of(&plain, &shape);
    let split = heads.and_then(|h| split_last(&plain, h)).filter(|_| found.is_empty());
    split.map_or(found, |split| orders_of(&split, &shape))
}

fn without_ones(shape: &[usize]) -> Vec<usize> {
    shape.iter().copied().filter(|&s| s != 1).collect()
}

fn split_last(shape: &[usize], heads: usize) -> Option<Vec<usize>> {
    let (&last, rest) = shape.split_last()?;
    (heads > 1 && last > heads && last.is_multiple_of(heads)).then(|| [rest, &[heads, last / heads]].concat())
}

/// Whether joining neighbours of `fine` gives `coarse`.
fn joins(coarse: &[usize], fine: &[usize]) -> bool {
    let mut rest = fine.iter();
    coarse.iter().all(|&size| {
        let mut joined = 1;
        while joined < size {
            match rest.next() {
                Some(&next) => joined *= next,
                None => return false,
            }
        }
        joined == size
    }) && rest.next().is_none()
}

fn orders_of(atoms: &[usize], shape: &[usize]) -> Vec<Layout> {
    let mut found: Vec<Layout> = Vec::new();
    if atoms.len() > MAX_ATOMS {
        return found;
    }
    let mut order: Vec<usize> = (0..atoms.len()).collect();
    loop {
        let permuted: Vec<usize> = order.iter().map(|&axis| atoms[axis]).collect();
        if joins(shape, &permuted) {
            found.push(Layout::new(atoms, &order));
        }
        if !next_order(&mut order) {
            return found;
        }
    }
}

/// The next permutation in lexicographic order.
fn next_order(order: &mut [usize]) -> bool {
    let Some(i) = (1..order.len()).rev().find(|&i| order[i - 1] < order[i]) else { return false };
    let Some(j) = (i..order.len()).rev().find(|&j| order[j] > order[i - 1]) else { return false };
    order.swap(i - 1, j);
    order[i..].reverse();
    true
}

/// The number of heads, from the first attention matrix of a dump, [B, H, Q, K].
pub(super) fn heads(dump: &Dump) -> Option<usize> {
    let is_matrix = |name: &str| {
        name.starts_with("attentions.")
            || [".c2c", ".c2p", ".p2c", ".scores", ".probs", ".self.dropout"].iter().any(|end| name.ends_with(end))
    };
    dump.iter().find(|(name, tensor)| is_matrix(name) && tensor.shape().len() == 4).map(|(_, tensor)| tensor.shape()[1])
}

/// Whether a comparison takes the two for the same: leading axes of size 1 do not count.
fn same(a: &[usize], b: &[usize]) -> bool {
    let significant = |s: &[usize]| s.iter().skip_while(|&&n| n == 1).copied().collect::<Vec<_>>();
    significant(a) == significant(b)
}

/// Puts every matched tensor of `actual` that is in another layout into the expected one. Notes say which.
pub(super) fn relayout(expected: &Dump, actual: &mut Dump) {
    let heads = heads(expected);
    let by_name: BTreeMap<String, &Tensor> =
        expected.iter().map(|(name, tensor)| (spelling(expected, name), tensor)).collect();
    let differing: Vec<(String, String, Tensor)> = super::outputs(actual)
        .map(|(name, tensor)| (name.to_owned(), spelling(actual, name), tensor.clone()))
        .filter(|(_, path, tensor)| by_name.get(path).is_some_and(|e| !same(e.shape(), tensor.shape())))
        .collect();
    let mut read: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, path, tensor) in differing {
        let target = by_name[&path];
        let fitting = layouts(target.shape(), tensor.shape(), heads);
        match choose(target, &tensor, &fitting) {
            Some(layout) => {
                let places = (0..target.len()).map(|k| layout.place(k));
                actual.replace(&name, tensor.reordered(target.shape().to_vec(), places));
                let how = if layout.keeps_order() { "axes split or joined".to_owned() } else { layout.to_string() };
                let how = format!("{:?} for {:?}, {how}", tensor.shape(), target.shape());
                read.entry(how).or_default().push(name);
            }
            None if !fitting.is_empty() => {
                let orders: Vec<String> = fitting.iter().map(ToString::to_string).collect();
                actual.notes.push(format!(
                    "{name} is {:?} where {:?} is expected, which could be {}: give it the expected layout",
                    tensor.shape(),
                    target.shape(),
                    orders.join(" or ")
                ));
            }
            None => {}
        }
    }
    for (how, names) in read {
        let more = if names.len() > 1 { format!(" and {} more", names.len() - 1) } else { String::new() };
        actual.notes.push(format!("read in another layout: {}{more}, {how}", names[0]));
    }
}

/// The only layout, or the one that the values speak for.
fn choose<'l>(expected: &Tensor, actual: &Tensor, layouts: &'l [Layout]) -> Option<&'l Layout> {
    if let [only] = layouts {
        return Some(only);
    }
    let wanted = Sample::of(expected, |k| k);
    let distance = |layout: &Layout| Sample::of(actual, |k| layout.place(k)).distance(&wanted);
    let mut ranked: Vec<(f64, &Layout)> = layouts.iter().map(|l| (distance(l), l)).collect();
    ranked.sort_by(|a, b| a.0.total_cmp(&b.0));
    let [(best, layout), (second, _), ..] = ranked[..] else { return None };
    (best <= WIDEST && best <= second / MARGIN).then_some(layout)
}

#[cfg(test)]
mod tests {
    use ndarray::{ArrayD, IxDyn};

    use super::*;

    /// [2, 5, 12] with 3 heads of 4.
    fn expected() -> ArrayD<f64> {
        ArrayD::from_shape_fn(IxDyn(&[2, 5, 12]), |i| ((i[0] * 5 + i[1]) * 12 + i[2]) as f64)
    }

    fn compared(name: &str, actual: ArrayD<f64>) -> (Dump, ArrayD<f64>) {
        let (mut ours, mut theirs) = (Dump::new("ours"), Dump::new("theirs"));
        ours.insert(name, Tensor::from_f64(&expected()));
        ours.insert("attentions.0", Tensor::from_f64(&ArrayD::zeros(IxDyn(&[2, 3, 5, 5]))));
        theirs.insert(name, Tensor::from_f64(&actual));
        relayout(&ours, &mut theirs);
        let read = theirs.get(name).expect("the tensor is there").to_f64();
        (theirs, read)
    }

    fn permuted(array: ArrayD<f64>, axes: &[usize]) -> ArrayD<f64> {
        array.permuted_axes(IxDyn(axes)).as_standard_layout().into_owned()
    }

    fn shaped(array: ArrayD<f64>, shape: &[usize]) -> ArrayD<f64> {
        array.into_shape_with_order(IxDyn(shape)).expect("as many elements")
    }

    #[test]
    fn foreign_layouts_become_the_expected_one() {
        let heads = || shaped(expected(), &[2, 5, 3, 4]);
        let foreign = [
            permuted(expected(), &[1, 0, 2]),
            permuted(expected(), &[0, 2, 1]),
            heads(),
            permuted(heads(), &[0, 2, 1, 3]),
            shaped(permuted(heads(), &[0, 2, 1, 3]), &[6, 5, 4]),
            permuted(heads(), &[2, 0, 1, 3]),
            shaped(expected(), &[10, 12]),
            shaped(permuted(expected(), &[1, 0, 2]), &[5, 2, 1, 12]),
        ];
        for actual in foreign {
            let shape = actual.shape().to_vec();
            let (dump, read) = compared("hidden_states.0", actual);
            assert_eq!(read, expected(), "{shape:?}");
            assert_eq!(dump.notes.len(), 1, "{shape:?}");
            assert!(dump.notes[0].contains("hidden_states.0"), "{:?}", dump.notes);
        }
    }

    #[test]
    fn where_two_layouts_fit_the_values_decide_or_nobody() {
        // [B, H, Q, K] with 2 of each of the first two: [H, B, Q, K] could be itself.
        let mut state = 1u64;
        let random = ArrayD::from_shape_simple_fn(IxDyn(&[3, 2, 5, 5]), || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 40) as f64 - 8e6
        });
        let expected = Tensor::from_f64(&random);
        let actual = permuted(random, &[1, 0, 3, 2]);
        let fitting = layouts(&[3, 2, 5, 5], &[2, 3, 5, 5], None);
        assert_eq!(fitting.len(), 2);
        let chosen = choose(&expected, &Tensor::from_f64(&actual), &fitting).expect("the values tell");
        assert_eq!(chosen.axes, [1, 0, 3, 2]);
        let other = Tensor::from_f64(&ArrayD::from_shape_fn(IxDyn(&[2, 3, 5, 5]), |i| (i[0] * 7 + i[2] * 3) as f64));
        assert_eq!(choose(&expected, &other, &fitting), None);
    }

    #[test]
    fn shapes_that_do_not_fit_are_left() {
        let (dump, read) = compared("hidden_states.0", ArrayD::zeros(IxDyn(&[2, 5, 13])));
        assert_eq!(read.shape(), [2, 5, 13]);
        assert!(dump.notes.is_empty());
        assert!(layouts(&[2, 0], &[0, 2], None).is_empty());
    }
}
