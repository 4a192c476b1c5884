//! Attention as the equations have it: one head at a time, every term in full, each open to the trace.
//!
//! Within a head everything is computed in `f64`; the projections that enter and the context that leaves are of the
//! model's type.

use deberta_ops::{Real, gather_c2p, gather_p2c, masked_softmax, narrow, wide};
use ndarray::{Array2, Array4, ArrayView2, s};

use super::{Attended, AttentionContext, DisentangledSelfAttention, Projected};
use crate::trace::Trace;

/// The terms of one head, each divided by the scale, [Q, K].
struct Terms {
    c2c: Array2<f64>,
    c2p: Option<Array2<f64>>,
    p2c: Option<Array2<f64>>,
}

/// The terms of every head, [B, H, Q, K], as far as somebody wants them.
struct Kept<T> {
    c2c: Option<Array4<T>>,
    c2p: Option<Array4<T>>,
    p2c: Option<Array4<T>>,
    scores: Option<Array4<T>>,
    probs: Option<Array4<T>>,
}

impl<T: Real> DisentangledSelfAttention<'_, T> {
    /// # Shapes
    /// `queries` [B·Q, H·D], `keys` and `values` [B·K, H·D]; returns [B·Q, H·D].
    pub(super) fn reference(
        &self,
        queries: &Array2<T>,
        keys: &Array2<T>,
        values: &Array2<T>,
        projected: Option<&Projected<T>>,
        context: &AttentionContext<'_, T>,
        trace: &mut Trace<'_, T>,
    ) -> Attended<T> {
        let (q, k) = (queries.nrows() / context.size, keys.nrows() / context.size);
        let rows = context.positions.map(|p| p.table()); // [Q, K]
        let mut kept = self.kept(projected, context, (q, k), trace);
        let mut out = Array2::zeros(queries.raw_dim()); // [B·Q, H·D]
        for b in 0..context.size {
            for h in 0..self.heads {
                let head = h * self.head_size..(h + 1) * self.head_size;
                let (of_queries, of_keys) = (b * q..(b + 1) * q, b * k..(b + 1) * k);
                let query = wide(&queries.slice(s![of_queries.clone(), head.clone()])); // [Q, D]
                let key = wide(&keys.slice(s![of_keys.clone(), head.clone()])); // [K, D]
                let value = wide(&values.slice(s![of_keys, head.clone()])); // [K, D]

                // 1. The terms and their sum.
                let terms = self.terms(query.view(), key.view(), projected, rows.as_ref(), h);
                let mut scores = terms.c2c.clone();
                for term in [&terms.c2p, &terms.p2c].into_iter().flatten() {
                    scores += term;
                }
                kept.keep_terms(b, h, &terms, &scores);

                // 2. Probabilities over the keys each query may attend to.
                for (i, mut row) in scores.rows_mut().into_iter().enumerate() {
                    if self.centers_before_masking {
                        let max = row.iter().fold(f64::NEG_INFINITY, |m, &s| if s > m { s } else { m });
                        row.mapv_inplace(|s| s - max);
                    }
                    masked_softmax(row, context.mask.row(b, i), self.hidden_scores);
                }
                keep(&mut kept.probs, b, h, &scores);

                // 3. The values they weigh.
                out.slice_mut(s![of_queries, head]).assign(&narrow(&scores.dot(&value)));
            }
        }
        kept.emit(trace);
        Attended { context: out, probabilities: kept.probs.filter(|_| context.keep_probabilities) }
    }

    fn terms(
        &self,
        query: ArrayView2<'_, f64>,
        key: ArrayView2<'_, f64>,
        projected: Option<&Projected<T>>,
        rows: Option<&Array2<usize>>,
        h: usize,
    ) -> Terms {
        let scale = self.scale.wide();
        let of_head = |rows: &Array2<T>| wide(&rows.slice(s![.., h * self.head_size..(h + 1) * self.head_size])); // [R, D]
        let position_keys = projected.and_then(|p| p.keys.as_ref()).map(of_head);
        let position_queries = projected.and_then(|p| p.queries.as_ref()).map(of_head);
        Terms {
            c2c: query.dot(&key.t()) / scale,
            c2p: position_keys
                .zip(rows)
                .map(|(position, rows)| gather_c2p(query.dot(&position.t()).view(), rows.view()) / scale),
            p2c: position_queries
                .zip(rows)
                .map(|(position, rows)| gather_p2c(key.dot(&position.t()).view(), rows.view()) / scale),
        }
    }

    fn kept(
        &self,
        projected: Option<&Projected<T>>,
        context: &AttentionContext<'_, T>,
        (q, k): (usize, usize),
        trace: &mut Trace<'_, T>,
    ) -> Kept<T> {
        let space = |wanted: bool| wanted.then(|| Array4::zeros((context.size, self.heads, q, k)));
        Kept {
            c2c: space(trace.wants("c2c")),
            c2p: space(trace.wants("c2p") && projected.is_some_and(|p| p.keys.is_some())),
            p2c: space(trace.wants("p2c") && projected.is_some_and(|p| p.queries.is_some())),
            scores: space(trace.wants("scores")),
            probs: space(context.keep_probabilities || trace.wants("probs") || trace.wants("dropout")),
        }
    }
}

impl<T: Real> Kept<T> {
    fn keep_terms(&mut self, b: usize, h: usize, terms: &Terms, scores: &Array2<f64>) {
        keep(&mut self.c2c, b, h, &terms.c2c);
        for (space, term) in [(&mut self.c2p, &terms.c2p), (&mut self.p2c, &terms.p2c)] {
            if let Some(term) = term {
                keep(space, b, h, term);
            }
        }
        keep(&mut self.scores, b, h, scores);
    }

    fn emit(&self, trace: &mut Trace<'_, T>) {
        let steps = [("c2c", &self.c2c), ("c2p", &self.c2p), ("p2c", &self.p2c), ("scores", &self.scores)];
        for (name, value) in steps.into_iter().chain([("probs", &self.probs), ("dropout", &self.probs)]) {
            if let Some(value) = value {
                trace.emit(name, value.view());
            }
        }
    }
}

fn keep<T: Real>(space: &mut Option<Array4<T>>, b: usize, h: usize, value: &Array2<f64>) {
    if let Some(space) = space {
        space.slice_mut(s![b, h, .., ..]).assign(&narrow(value));
    }
}
