//! Attention as it is fast: the same equations, computed sixteen queries at a time, without any array over all queries and
//! keys.
//!
//! Everything comes and goes in panels ([`Panels`]): Q lies as a product left it, sixteen queries side by side, and the context
//! is left as the next product takes it. A job is up to [`BLOCK`] panels of one head of one sequence. Its scores lie in columns: a
//! row for each key, and in it sixteen queries side by side ([`Lanes`]), so that sixteen queries over 512 keys fill 32 KB
//! and stay in the cache from the first product to the last.
//!
//! ```text
//! c2c[j, i]  = K_j · Q_i/s                         a product
//! c2p        : P[ρ, i] = PosK_ρ · Q_i/s            a product over the rows ρ that these queries can reach
//!              Z[x, i] = P[row(x), i]              a row for each distance x: copies
//!              c2p[j, i] = Z[i − j, i]             lane i shifted by i rows (`add_skewed`): no gather
//! p2c        : B[j, ρ] = K_j · PosQ_ρ/s            a product over the rows that this job can reach
//!              p2c[j, i] = B[j, row(i − j)]        sixteen neighbours, rearranged (`LookUp`)
//! A[d, i]    = Σ_j V[j, d] · exp(c2c + c2p + p2c − max)  /  Σ_j exp(…)
//! ```
//!
//! PosK and PosQ/s never change. They are projected once a model, and only for the rows that distances at the lengths seen
//! so far can reach: 31 of 512 at sixteen tokens.
//!
//! Only tokens that exist come here ([`crate::inputs`] packs them), so no score is masked. Where a panel holds queries of two
//! sequences, each is computed for all sixteen lanes, and keeps its own.
//!
//! Numerics: products are sums in the type of the data; so are the terms of a score, added as above. The denominators are
//! `f64` sums of partial sums over 64 keys. Attentions of at most [`SMALL`] multiplications a term are computed in `f64`.

use std::ops::Range;
use std::sync::Arc;

use deberta_ops::{At, Buffer, LANES, Lanes, Panels, Real, Tiles, add_skewed, exponentials, for_each, give, take};
use ndarray::Array2;

use super::DisentangledSelfAttention;
use super::plan::{Distances, Plan};
use super::projected::{Projected, by_column, by_head};

/// The panels of queries of one job, at most.
const BLOCK: usize = 8;
/// The keys whose scores are completed at a time.
const KEYS: usize = 64;
/// The keys whose values are weighed at a time.
const VALUES: usize = 128;
/// An attention whose c2c has at most this many multiplications is computed in `f64`.
const SMALL: usize = 1 << 17;

impl<'w, T: Real> DisentangledSelfAttention<'w, T> {
    /// # Shapes
    /// `states`: queries, keys and values [N, H·D] each, the rows of `plan`; `relative_rows` [R, E]; returns [N, H·D].
    pub(super) fn fused(&self, states: [&Panels<T>; 3], relative_rows: Option<&Array2<T>>, plan: &Plan) -> Panels<T> {
        let distances = plan.distances.as_ref().zip(relative_rows).zip(self.position.as_ref());
        let position = distances.map(|((distances, rows), position)| {
            let project = |some| self.project(position, rows, some);
            (distances, position.kept.reaching(distances.rows.clone(), rows.nrows(), project))
        });
        let products: usize = plan.sequences.iter().map(|s| s.len() * s.len() * self.heads * self.head_size).sum();
        if T::NAME != f64::NAME && products <= SMALL {
            let position = position.map(|(d, p)| (d, Arc::new(p.wide())));
            let states = states.map(|states| states.map(Real::wide));
            return self.attend::<f64>(states.each_ref(), position, plan).map(T::of);
        }
        self.attend(states, position, plan)
    }

    fn attend<S: Real>(
        &self,
        [queries, keys, values]: [&Panels<S>; 3],
        position: Option<(&Distances, Arc<Projected<S>>)>,
        plan: &Plan,
    ) -> Panels<S> {
        let (size, rows) = (self.head_size, queries.rows());
        let keys = by_head(keys, size);
        let (values, stride) = by_column(values, size);
        let mut out = Panels::unwritten(rows, queries.depth());
        let width = out.depth();
        let shared = out.shared(LANES);
        let jobs = self.jobs(plan);
        for_each(jobs.len(), |i| {
            let (sequence, head, panels) = &jobs[i];
            let position =
                position.as_ref().map(|(distances, projected)| OfHead::new(distances, projected, *head, size));
            let job = Job {
                sequence,
                size,
                keys: &keys[(head * rows + sequence.start) * size..][..sequence.len() * size],
                values: &values[head * size * stride + sequence.start..],
                stride,
                scale: S::of(self.scale.wide()),
                position,
            };
            let p2c = job.position_to_content(panels);
            for panel in panels.clone() {
                let queries = &queries.panel(panel)[head * size..(head + 1) * size];
                let context = job.attend(panel, queries, p2c.as_ref());
                let lanes = job.lanes(panel);
                for (d, context) in context.as_chunks::<LANES>().0.iter().enumerate() {
                    // SAFETY: each lane of each panel and head is one job's.
                    let to = unsafe { shared.part(panel * width + head * size + d, lanes.clone()) };
                    to.copy_from_slice(&context[lanes.clone()]);
                }
                give(context);
            }
            if let Some(p2c) = p2c {
                give(p2c.terms);
            }
        });
        give(keys);
        give(values);
        out
    }

    /// Each sequence, head, and block of panels. Blocks of one head follow one another, so that its keys and values are
    /// still in the cache.
    fn jobs<'p>(&self, plan: &'p Plan) -> Vec<(&'p Range<usize>, usize, Range<usize>)> {
        let mut jobs = Vec::new();
        for sequence in plan.sequences.iter().filter(|sequence| !sequence.is_empty()) {
            let end = sequence.end.div_ceil(LANES);
            for head in 0..self.heads {
                let blocks = (sequence.start / LANES..end).step_by(BLOCK);
                jobs.extend(blocks.map(|first| (sequence, head, first..end.min(first + BLOCK))));
            }
        }
        jobs
    }
}

/// The relative side of one head.
struct OfHead<'a, S> {
    distances: &'a Distances,
    projected: &'a Projected<S>,
    /// Where the lowest row that occurs stands among the projected ones.
    first: usize,
    head: usize,
    size: usize,
}

impl<'a, S: Real> OfHead<'a, S> {
    fn new(distances: &'a Distances, projected: &'a Projected<S>, head: usize, size: usize) -> Self {
        Self { distances, projected, first: distances.rows.start - projected.rows.start, head, size }
    }

    /// PosK from a row on, counted from the lowest that occurs.
    fn keys(&self, row: usize) -> Option<&[S]> {
        let keys = self.projected.keys.as_ref()?;
        keys.get((self.head * self.projected.rows.len() + self.first + row) * self.size..)
    }

    /// PosQ/s from a panel on.
    fn queries(&self, panel: usize) -> Option<&[S]> {
        let queries = self.projected.queries.as_ref()?;
        queries.numbers().get((panel * queries.depth() + self.head * self.size) * LANES..)
    }
}

/// Some queries of one head against all its keys.
struct Job<'a, S> {
    sequence: &'a Range<usize>,
    /// D
    size: usize,
    /// K, [length, D]
    keys: &'a [S],
    /// V by columns, [D, stride]
    values: &'a [S],
    stride: usize,
    /// s
    scale: S,
    position: Option<OfHead<'a, S>>,
}

/// B, the scores of keys against the position queries that the job can reach.
struct PositionToContent<S> {
    /// [length, width]
    terms: Buffer<S>,
    width: usize,
    /// The row at which the terms begin, for each sixteen keys; it may lie before the lowest that occurs.
    starts: Vec<isize>,
}

impl<S: Real> Job<'_, S> {
    /// Which query, in its sequence, a panel's first lane holds; a negative number belongs to the sequence before.
    fn first(&self, panel: usize) -> isize {
        (panel * LANES) as isize - self.sequence.start as isize
    }

    /// The lanes of a panel that hold queries of this sequence.
    fn lanes(&self, panel: usize) -> Range<usize> {
        let lane = |row: usize| row.saturating_sub(panel * LANES).min(LANES);
        lane(self.sequence.start)..lane(self.sequence.end)
    }

    fn position_to_content(&self, panels: &Range<usize>) -> Option<PositionToContent<S>> {
        let position = self.position.as_ref()?;
        position.queries(0)?;
        let length = self.sequence.len();
        let (first, last) = (self.first(panels.start), self.first(panels.end) - 1);
        // The panels of relative rows that sixteen keys need.
        let reached = |keys: &Range<usize>| {
            let rows = position.distances.window(first - (keys.end as isize - 1), last - keys.start as isize);
            (position.first + rows.start) / LANES..(position.first + rows.end).div_ceil(LANES)
        };
        let some_keys = || (0..length).step_by(LANES).map(|from| from..length.min(from + LANES));
        // One vector more, which a look-up may read but never takes.
        let width = (some_keys().map(|keys| reached(&keys).len()).max().unwrap_or(0) + 1) * LANES;
        let mut terms = take(length * width);
        let mut starts = Vec::with_capacity(length.div_ceil(LANES));
        for (keys, terms) in some_keys().zip(terms.chunks_mut(LANES * width)) {
            let reached = reached(&keys);
            let tiles = Tiles {
                depth: self.size,
                rows: keys.len(),
                panels: reached.len(),
                a: &self.keys[keys.start * self.size..],
                a_row: self.size,
                x: position.queries(reached.start)?,
                x_panel: position.projected.queries.as_ref()?.depth() * LANES,
                c_row: width,
                c_panel: LANES,
                start: None,
                accumulates: false,
                fetches: false,
            };
            tiles.compute(terms);
            starts.push((reached.start * LANES) as isize - position.first as isize);
        }
        Some(PositionToContent { terms, width, starts })
    }

    /// The context of a panel of queries, [D, 16].
    fn attend(&self, panel: usize, queries: &[Lanes<S>], p2c: Option<&PositionToContent<S>>) -> Buffer<S> {
        let (first, length) = (self.first(panel), self.sequence.len());
        // 1. Q/s
        let mut scaled = take(self.size * LANES);
        scaled.iter_mut().zip(queries.as_flattened()).for_each(|(to, &q)| *to = q / self.scale);
        // 2. The scores, [length, 16].
        let mut scores = take(length * LANES);
        self.score(self.keys, length, &scaled, &mut scores);
        self.add_content_to_position(first, &scaled, scores.as_chunks_mut().0);
        if let Some(p2c) = p2c {
            self.add_position_to_content(first, p2c, scores.as_chunks_mut().0);
        }
        // 3. Their exponentials, and the values that these weigh.
        let sums = exponentials(scores.as_chunks_mut().0);
        let mut context = scaled;
        for keys in (0..length).step_by(VALUES) {
            let tiles = Tiles {
                depth: VALUES.min(length - keys),
                rows: self.size,
                panels: 1,
                a: &self.values[keys..],
                a_row: self.stride,
                x: &scores[keys * LANES..],
                x_panel: 0,
                c_row: LANES,
                c_panel: 0,
                start: None,
                accumulates: keys > 0,
                fetches: false,
            };
            tiles.compute(&mut context);
        }
        give(scores);
        let shares = sums.map(|sum| 1.0 / sum);
        for context in context.as_chunks_mut::<LANES>().0 {
            context.iter_mut().zip(shares).for_each(|(c, share)| *c = S::of(c.wide() * share));
        }
        context
    }

    /// The first `count` of `rows`, each of D numbers, against those of a panel, [count, 16].
    fn score(&self, rows: &[S], count: usize, panel: &[S], scores: &mut [S]) {
        let tiles = Tiles {
            depth: self.size,
            rows: count,
            panels: 1,
            a: rows,
            a_row: self.size,
            x: panel,
            x_panel: 0,
            c_row: LANES,
            c_panel: 0,
            start: None,
            accumulates: false,
            fetches: false,
        };
        tiles.compute(scores);
    }

    fn add_content_to_position(&self, first: isize, panel: &[S], scores: &mut [Lanes<S>]) {
        let Some(position) = &self.position else { return };
        let length = scores.len() as isize;
        let window = position.distances.window(first - (length - 1), first + LANES as isize - 1);
        let Some(keys) = position.keys(window.start) else { return };
        let mut of_rows = take(window.len() * LANES);
        self.score(keys, window.len(), panel, &mut of_rows);
        let terms_of: &[Lanes<S>] = of_rows.as_chunks().0;
        let mut of_distances = [[S::zero(); LANES]; KEYS + LANES - 1];
        let mut space = of_distances;
        for (block, scores) in scores.chunks_mut(KEYS).enumerate() {
            // The distances of the last key from the first query, to the first key from the last query.
            let last_key = (block * KEYS + scores.len()) as isize - 1;
            let rows = &position.distances.look_up.rows()[position.distances.place(first - last_key)..];
            let terms = &mut of_distances[..scores.len() + LANES - 1];
            terms.iter_mut().zip(rows).for_each(|(term, row)| *term = terms_of[row - window.start]);
            add_skewed(scores, terms, &mut space);
        }
        give(of_rows);
    }

    fn add_position_to_content(&self, first: isize, p2c: &PositionToContent<S>, scores: &mut [Lanes<S>]) {
        let Some(position) = &self.position else { return };
        let terms = p2c.terms.chunks(p2c.width * LANES);
        for (block, ((scores, terms), &row)) in scores.chunks_mut(LANES).zip(terms).zip(&p2c.starts).enumerate() {
            let place = position.distances.place(first - (block * LANES) as isize);
            position.distances.look_up.add(scores, terms, At { place, row, width: p2c.width });
        }
    }
}
