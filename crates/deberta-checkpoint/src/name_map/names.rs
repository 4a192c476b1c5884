//! The names of a checkpoint as the schema would spell them, before any configuration is known.

use std::collections::BTreeMap;

use super::canonical::{family_of, targets};
use super::rules::{Family, Transform};
use crate::checkpoint::Checkpoint;

/// Canonical names with the shapes they will have.
pub(crate) struct Names {
    pub family: Family,
    shapes: BTreeMap<String, Vec<usize>>,
}

impl Names {
    pub fn of(checkpoint: &Checkpoint) -> Self {
        let family = family_of(checkpoint);
        let base = |n: &str| n.starts_with("deberta.embeddings.") || n.starts_with("deberta.encoder.");
        let mut shapes = BTreeMap::new();
        for tensor in checkpoint.tensors() {
            for target in targets(&tensor.name, family, base) {
                shapes.insert(target.name, shape_after(&tensor.shape, target.transform));
            }
        }
        for (name, kept) in checkpoint.links() {
            if let Some(tensor) = checkpoint.get(kept) {
                shapes.insert(name.clone(), tensor.shape.clone());
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
