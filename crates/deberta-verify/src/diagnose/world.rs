//! What a diagnosis stands on: the tensors of both dumps by step, the inputs, the weights.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use ndarray::{Array2, ArrayD, IxDyn};

use super::knowledge::Weights;
use super::node::{Depth, Kind, Node};
use super::refit;
use super::setting::Setting;
use crate::dtype::Dtype;
use crate::dump::Dump;
use crate::order;
use crate::tensor::Tensor;

/// An array that several steps read.
pub type Shared = Rc<ArrayD<f64>>;

/// Attention matrices of more elements than this are looked at in one sequence of the batch alone.
const LARGE: usize = 6_000_000;

/// All sequences, or `focus` alone where all would be too much.
pub fn in_memory(heads: usize, focus: usize) -> impl FnOnce(usize, usize) -> Vec<usize> {
    move |whole, length| {
        let large = whole.saturating_mul(heads).saturating_mul(length).saturating_mul(length) > LARGE;
        if large { one_of(focus)(whole, length) } else { (0..whole).collect() }
    }
}

/// One sequence alone.
pub fn one_of(focus: usize) -> impl FnOnce(usize, usize) -> Vec<usize> {
    move |whole, _| vec![focus.min(whole - 1)]
}

/// The tensors of one dump, by step.
pub struct Store<'a> {
    tensors: BTreeMap<Node, &'a Tensor>,
    loaded: RefCell<BTreeMap<Node, Option<Shared>>>,
}

/// The sequences that are looked at, and their inputs.
pub struct Batch {
    /// How many sequences the dumps hold.
    pub whole: usize,
    /// Which of them are looked at.
    pub items: Vec<usize>,
    /// L
    pub length: usize,
    /// \[B·L\], as far as dumped.
    pub ids: Option<Vec<usize>>,
    pub types: Option<Vec<usize>>,
    pub positions: Option<Vec<usize>>,
    /// The tokens with a label above 0, if all sequences are looked at: indices into \[B·L\].
    pub labelled: Option<Vec<usize>>,
    /// Whether token (b, i) exists: [B, L].
    pub exists: Array2<bool>,
    /// Whether query i sees key j: [B, L, L], where the mask says more than which tokens exist.
    pub pairs: Option<ArrayD<bool>>,
}

/// Everything.
pub struct World<'a> {
    pub setting: Setting,
    pub depth: Depth,
    pub batch: Batch,
    pub expected: Store<'a>,
    pub actual: Store<'a>,
    pub actual_dtype: Dtype,
    weights: Option<&'a dyn Weights>,
    cached: RefCell<BTreeMap<String, Option<Shared>>>,
}

impl<'a> Store<'a> {
    /// The tensors of `dump`, `good` ones before others where two names are one step.
    pub fn new(dump: &'a Dump, depth: Depth, good: impl Fn(&str) -> bool) -> Self {
        let mut tensors = BTreeMap::new();
        let mut rest = Vec::new();
        for (name, tensor) in dump.iter().filter(|(_, t)| t.dtype().is_float()) {
            let Some(node) = Node::of(&order::spelling(dump, name), depth) else { continue };
            if good(name) {
                tensors.entry(node).or_insert(tensor);
            } else {
                rest.push((node, tensor));
            }
        }
        for (node, tensor) in rest {
            tensors.entry(node).or_insert(tensor);
        }
        Self { tensors, loaded: RefCell::default() }
    }

    pub fn holds(&self, node: Node) -> bool {
        self.tensors.contains_key(&node)
    }

    pub fn nodes(&self) -> impl Iterator<Item = Node> + '_ {
        self.tensors.keys().copied()
    }

    pub fn shape(&self, node: Node) -> Option<&[usize]> {
        self.tensors.get(&node).map(|t| t.shape())
    }

    /// The values of a step, for the sequences that are looked at.
    pub fn get(&self, node: Node, batch: &Batch) -> Option<Shared> {
        if let Some(found) = self.loaded.borrow().get(&node) {
            return found.clone();
        }
        let loaded = self.tensors.get(&node).and_then(|t| load(t, node, batch)).map(Rc::new);
        self.loaded.borrow_mut().insert(node, loaded.clone());
        loaded
    }

    fn forget(&self) {
        for node in std::mem::take(&mut *self.loaded.borrow_mut()).keys() {
            if let Some(tensor) = self.tensors.get(node) {
                tensor.release();
            }
        }
    }
}

/// The values of a tensor, in the shape in which formulas use them: relative rows as [R, E], a convolution's as
/// [B, L, E], the words that are predicted as they are, and of the batch those sequences that are looked at.
pub fn load(tensor: &Tensor, node: Node, batch: &Batch) -> Option<ArrayD<f64>> {
    use Kind::*;
    let mut shape = tensor.shape().to_vec();
    if matches!(node.kind, RelativeRows | RelativeNorm | PositionKey | PositionQuery) {
        while shape.len() > 2 && shape[0] == 1 {
            shape.remove(0);
        }
        return (shape.len() == 2).then(|| tensor.to_f64().into_shape_with_order(IxDyn(&shape)).ok()).flatten();
    }
    let words = matches!(node.kind, WordDense | WordActivation | WordNorm | Logits);
    let labelled = batch.labelled.as_ref().filter(|_| words).map(Vec::len);
    if let [rest @ .., _] = shape.as_slice()
        && labelled.is_some_and(|n| n == rest.iter().product::<usize>())
    {
        return Some(tensor.to_f64());
    }
    if shape.first() != Some(&batch.whole) {
        return (shape.first() == Some(&1) && node.kind == Position).then(|| tensor.to_f64());
    }
    let array = if batch.items.len() == batch.whole { tensor.to_f64() } else { tensor.items(&batch.items) };
    if node.kind == Convolved && shape.len() == 3 && shape[2] == batch.length {
        return Some(array.permuted_axes(IxDyn(&[0, 2, 1])).as_standard_layout().into_owned());
    }
    Some(array)
}

impl Batch {
    /// From the inputs in one of the dumps, or else from the shapes of what was computed. `choose` is given the number of
    /// sequences and their length, and says which are looked at.
    pub fn new<'d>(
        dumps: [&'d Dump; 2],
        store: &Store<'_>,
        choose: impl FnOnce(usize, usize) -> Vec<usize>,
    ) -> Option<Self> {
        let find = |dump: &'d Dump, name: &str| dump.get(name).or_else(|| dump.get(&format!("inputs.{name}")));
        // The inputs of one dump, not some of either.
        let from = dumps
            .into_iter()
            .find(|d| find(d, "input_ids").is_some())
            .or(dumps.into_iter().find(|d| find(d, "attention_mask").is_some()));
        let input = |name: &str| find(from?, name);
        let states = || {
            use Kind::*;
            let kinds = [Embeddings, Hidden, Query, Key, Value, Context, Attention];
            store.nodes().find(|n| kinds.contains(&n.kind) && store.shape(*n).is_some_and(|s| s.len() == 3))
        };
        let (whole, length) = match input("input_ids").map(Tensor::shape) {
            Some([rest @ .., length]) => (rest.iter().product(), *length),
            _ => {
                let shape = store.shape(states()?)?;
                (shape[0], shape[1])
            }
        };
        if whole == 0 || length == 0 {
            return None;
        }
        let items = choose(whole, length);
        let integers = |name: &str| {
            let tensor = input(name)?;
            let each = tensor.len() / length.max(1);
            let values: Vec<usize> = tensor.values().map(|v| v.max(0.0) as usize).collect();
            let rows = items.iter().map(|&b| if each == 1 { 0 } else { b });
            (each == whole || each == 1)
                .then(|| rows.flat_map(|b| values[b * length..(b + 1) * length].iter().copied()).collect())
        };
        let mut exists = Array2::from_elem((items.len(), length), true);
        let mut pairs = None;
        if let Some(tensor) = input("attention_mask") {
            let mask: Vec<bool> = tensor.values().map(|v| v != 0.0).collect();
            let per_item = mask.len() / whole;
            for (at, &b) in items.iter().enumerate() {
                let own = &mask[b * per_item..(b + 1) * per_item];
                if per_item == length {
                    (0..length).for_each(|i| exists[[at, i]] = own[i]);
                } else if per_item == length * length {
                    (0..length).for_each(|j| exists[[at, j]] = (0..length).any(|i| own[i * length + j]));
                    let all =
                        pairs.get_or_insert_with(|| ArrayD::from_elem(IxDyn(&[items.len(), length, length]), true));
                    (0..length * length).for_each(|k| all[[at, k / length, k % length]] = own[k]);
                }
            }
        }
        let (ids, types, positions) = (integers("input_ids"), integers("token_type_ids"), integers("position_ids"));
        let labels = input("labels").filter(|t| t.len() == whole * length && items.len() == whole);
        let labelled = labels.map(|t| t.values().enumerate().filter(|(_, l)| *l > 0.0).map(|(i, _)| i).collect());
        Some(Self { whole, length, ids, types, positions, labelled, exists, pairs, items })
    }

    /// Whether query i sees key j.
    pub fn sees(&self, b: usize, i: usize, j: usize) -> bool {
        match &self.pairs {
            Some(pairs) => pairs[[b, i, j]],
            None => self.exists[[b, i]] && self.exists[[b, j]],
        }
    }

    pub fn size(&self) -> usize {
        self.items.len()
    }
}

impl<'a> World<'a> {
    pub fn new(
        setting: Setting,
        batch: Batch,
        stores: (Store<'a>, Store<'a>),
        actual_dtype: Dtype,
        weights: Option<&'a dyn Weights>,
    ) -> Self {
        let depth = setting.depth();
        let (expected, actual) = stores;
        Self { setting, depth, batch, expected, actual, actual_dtype, weights, cached: RefCell::default() }
    }

    /// Lets go of the steps that were loaded.
    pub fn forget_steps(&self) {
        self.expected.forget();
        self.actual.forget();
    }

    /// Lets go of the parameters that were loaded.
    pub fn forget_weights(&self) {
        self.cached.borrow_mut().clear();
    }

    /// Whether the model's weights are known, and not just those that the expected dump shows.
    pub fn knows_weights(&self) -> bool {
        self.weights.is_some()
    }

    /// A parameter: the model's, or what the expected dump shows of it.
    pub fn weight(&self, name: &str) -> Option<Shared> {
        if let Some(found) = self.cached.borrow().get(name) {
            return found.clone();
        }
        let found = match self.weights {
            Some(weights) => weights.weight(name).map(Rc::new),
            None => refit::parameter(self, name),
        };
        self.cached.borrow_mut().insert(name.to_owned(), found.clone());
        found
    }

    /// Rows of a table.
    pub fn rows(&self, name: &str, ids: &[usize]) -> Option<Array2<f64>> {
        match self.weights {
            Some(weights) => weights.rows(name, ids),
            None => refit::rows(self, name, ids),
        }
    }

    /// The parameters' prefix of layer `at`; the passes of the decoder go through the last one.
    pub fn layer(&self, at: usize) -> String {
        let i = if at >= Node::DECODER { self.setting.layers.saturating_sub(1) } else { at };
        format!("deberta.encoder.layer.{i}")
    }
}

/// One sequence after another, as rows: [B·L, width] of [B, L, width].
pub fn flat(array: &ArrayD<f64>) -> Option<ndarray::ArrayView2<'_, f64>> {
    let width = *array.shape().last()?;
    let rows = array.len().checked_div(width)?;
    array.view().into_shape_with_order((rows, width)).ok()
}

/// The same, to be changed.
pub fn flat_mut(array: &mut ArrayD<f64>) -> Option<ndarray::ArrayViewMut2<'_, f64>> {
    let width = *array.shape().last()?;
    let rows = array.len().checked_div(width)?;
    array.view_mut().into_shape_with_order((rows, width)).ok()
}
