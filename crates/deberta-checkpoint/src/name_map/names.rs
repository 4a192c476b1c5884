//! The names of a checkpoint as the schema would spell them, before any configuration is known.

use std::collections::BTreeMap;

use super::canonical::{family_of, targets};
use super::rules::{Family, PARTS, Transform};
use crate::checkpoint::Checkpoint;

/// Canonical names with the shapes they will have.
pub(crate) struct Names {
    pub family: Family,
    shapes: BTreeMap<String, Vec<usize>>,
}

impl Names {
    /// Of the tensors whose names begin with `part`.
    pub fn of(checkpoint: &Checkpoint, part: &str) -> Self {
        let family = family_of(checkpoint);
        let base = |n: &str| n.starts_with("deberta.embeddings.") || n.starts_with("deberta.encoder.");
        let mut shapes = BTreeMap::new();
        for tensor in checkpoint.tensors().chain(checkpoint.derived()) {
            let Some(within) = tensor.name.strip_prefix(part) else { continue };
            for target in targets(within, family, base) {
                shapes.insert(target.name, shape_after(&tensor.shape, target.transform));
            }
        }
        for (name, kept) in checkpoint.links() {
            if let (Some(tensor), Some(within)) = (checkpoint.get(kept), name.strip_prefix(part)) {
                shapes.insert(within.to_owned(), tensor.shape.clone());
            }
        }
        Self { family, shapes }
    }

    /// Whether any name begins so.
    pub fn any_starts(&self, prefix: &str) -> bool {
        self.shapes.range(prefix.to_owned()..).next().is_some_and(|(name, _)| name.starts_with(prefix))
    }

    /// The shape of a tensor.
    pub fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.shapes.get(name).cloned()
    }
}

/// The shape that a source has once it is rearranged.
fn shape_after(shape: &[usize], transform: Transform) -> Vec<usize> {
    match (transform, shape.split_first()) {
        (Transform::Kernel, _) => shape.iter().rev().copied().collect(),
        (Transform::InProj { .. }, Some((rows, rest))) => {
            std::iter::once(rows / 3).chain(rest.iter().copied()).collect()
        }
        _ => shape.to_vec(),
    }
}

/// The parts of a checkpoint that holds several models, the one that people use first; none where it holds one.
pub(crate) fn parts(checkpoint: &Checkpoint) -> Vec<&'static str> {
    let holds = |part: &str| {
        checkpoint
            .tensors()
            .any(|t| t.name.strip_prefix(part).is_some_and(|n| n.starts_with("deberta.") || n.starts_with("bert.")))
    };
    PARTS.iter().copied().filter(|part| holds(part)).collect()
}
