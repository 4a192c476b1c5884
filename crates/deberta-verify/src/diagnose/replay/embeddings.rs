//! The embeddings, and the relative rows.

use super::*;

impl Replay<'_, '_> {
    pub(super) fn embedding(&mut self, kind: Kind) -> Option<ArrayD<f64>> {
        use Kind::*;
        let world = self.world;
        let (size, length) = (world.batch.size(), world.batch.length);
        let wrong = if let Some(Mistake::Embedding(e)) = self.mistake { Some(*e) } else { None };
        let rows = |table: &str, ids: &[usize]| {
            let rows = world.rows(&format!("deberta.embeddings.{table}.weight"), ids)?;
            let width = rows.ncols();
            rows.into_shape_with_order(IxDyn(&[size, length, width])).ok()
        };
        let zeros = |kind| {
            let mut shape = world.expected.shape(Node::new(kind, 0))?.to_vec();
            if shape.first() == Some(&world.batch.whole) {
                shape[0] = size;
            }
            Some(ArrayD::zeros(IxDyn(&shape)))
        };
        match kind {
            Word => rows("word_embeddings", world.batch.ids.as_ref()?),
            TokenType if wrong == Some(Embedding::NoTypes) => zeros(kind),
            Position if wrong == Some(Embedding::NoPositions) => zeros(kind),
            TokenType => {
                let zero = vec![0; size * length];
                let given = world.batch.types.as_ref().filter(|_| wrong != Some(Embedding::TypeZero));
                rows("token_type_embeddings", given.unwrap_or(&zero))
            }
            Position => {
                let start = match wrong {
                    Some(Embedding::PositionsFrom(start)) => start,
                    Some(Embedding::PositionsFromPadding) => self.setting.pad_token_id + 1,
                    _ => 0,
                };
                if let Some(given) = world.batch.positions.as_ref().filter(|_| start == 0) {
                    return rows("position_embeddings", given);
                }
                // The same for every sequence: [1, L, E′].
                let counted: Vec<usize> = (start..start + length).collect();
                let rows = world.rows("deberta.embeddings.position_embeddings.weight", &counted)?;
                Some(rows.insert_axis(Axis(0)).into_dyn())
            }
            EmbeddingSum => self.embedding_sum(wrong),
            _ => {
                let mut out = (*self.at(EmbeddingNorm, 0)?).clone();
                if wrong != Some(Embedding::NotMasked) {
                    self.mask(&mut out)?;
                }
                Some(out)
            }
        }
    }

    pub(super) fn embedding_sum(&mut self, wrong: Option<Embedding>) -> Option<ArrayD<f64>> {
        use Kind::*;
        let world = self.world;
        let mut sum = (*self.at(Word, 0)?).clone();
        if wrong == Some(Embedding::Scaled) {
            sum *= (*sum.shape().last()? as f64).sqrt();
        }
        let positions = match wrong {
            Some(Embedding::NoPositions) => false,
            Some(Embedding::PositionsAdded) => true,
            _ => self.setting.position_biased,
        };
        if positions {
            let moved = matches!(wrong, Some(Embedding::PositionsFrom(_) | Embedding::PositionsFromPadding));
            let rows = if moved { self.embedding(Position).map(Rc::new) } else { self.at(Position, 0) }?;
            sum = added(sum, &rows)?;
        }
        let types = match wrong {
            Some(Embedding::NoTypes) => false,
            Some(Embedding::TypesAdded) => true,
            _ => self.setting.token_types,
        };
        if types && wrong == Some(Embedding::TypeZero) {
            let row = world.rows("deberta.embeddings.token_type_embeddings.weight", &[0])?;
            sum = added(sum, &row.into_dyn())?;
        } else if types {
            let rows = self.at(TokenType, 0)?;
            sum = added(sum, &rows)?;
        }
        Some(sum)
    }

    pub(super) fn mask(&self, states: &mut ArrayD<f64>) -> Option<()> {
        let exists = &self.world.batch.exists;
        if states.ndim() != 3 || states.shape()[..2] != *exists.shape() {
            return None;
        }
        for ((b, i), &exists) in exists.indexed_iter() {
            if !exists {
                states.slice_mut(s![b, i, ..]).fill(0.0);
            }
        }
        Some(())
    }

    // Relative rows

    pub(super) fn relative_rows(&self) -> Option<ArrayD<f64>> {
        let rows = self.world.weight("deberta.encoder.rel_embeddings.weight")?;
        let span = self.setting.relative.as_ref()?.span;
        (rows.ndim() == 2 && rows.shape()[0] >= 2 * span).then(|| rows.slice(s![..2 * span, ..]).to_owned().into_dyn())
    }

    /// `at` counts the layers that have normed them before, where a mistake does it in each.
    pub(super) fn relative_norm(&mut self, at: usize) -> Option<ArrayD<f64>> {
        let rows = self.at(Kind::RelativeRows, 0)?;
        let wrong = if let Some(Mistake::Relative(r)) = self.mistake { Some(*r) } else { None };
        let right = usize::from(self.setting.norm_rel);
        let times = match wrong {
            Some(Rows::NoNorm) => 0,
            Some(Rows::NormAdded) => 1,
            Some(Rows::NormTwice) => 2 * right,
            Some(Rows::NormEachLayer) => right * (at + 1),
            _ => right,
        };
        let mut out = (*rows).clone();
        for _ in 0..times {
            out = self.norm(Node::new(Kind::RelativeNorm, 0), &out)?;
        }
        if wrong == Some(Rows::Reversed) {
            out.invert_axis(Axis(0));
            out = out.as_standard_layout().into_owned();
        }
        Some(out)
    }
}
