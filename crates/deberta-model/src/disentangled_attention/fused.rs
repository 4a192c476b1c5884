//! Attention as it is fast: the same equations, computed sixteen queries at a time, without any array over all queries and
//! keys.
//!
//! A job is a block of up to [`BLOCK`] queries of one head of one sequence. Its scores lie in columns: a row for each key, and
//! in it sixteen queries side by side ([`Lanes`]), so that sixteen queries over 512 keys fill 32 KB and stay in the cache
//! from the first product to the last.
//!
//! ```text
//! c2c[j, i]  = K_j/s · Q_i                         a product
//! c2p        : P[ρ, i] = PosK_ρ/s · Q_i            a product over the rows ρ that these queries can reach
//!              Z[x, i] = P[row(x), i]              a row for each distance x: copies
//!              c2p[j, i] = Z[i − j, i]             lane i shifted by i rows (`add_skewed`): no gather
//! p2c        : B[ρ, j] = K_j/s · PosQ_ρ            a product over the rows that this block can reach, turned to B[j, ρ]
//!              p2c[j, i] = B[j, row(i − j)]        sixteen neighbours, where buckets are the distances themselves; one number,
//!                                                  where all sixteen distances share a bucket; else a look-up each
//! A[i]       = Σ_j exp(c2c + c2p + p2c − max) · V_j  /  Σ_j exp(…)
//! ```
//!
//! PosK/s and PosQ never change. They are projected once a model, and only for the rows that distances at the lengths seen
//! so far can reach: 31 of 512 at sixteen tokens.
//!
//! Only tokens that exist come here ([`crate::inputs`] packs them), so no score is masked.
//!
//! Numerics: products are sums in the type of the data; so are the terms of a score, added as above. The denominators are
//! `f64` sums of partial sums over 64 keys. Attentions of at most [`SMALL`] multiplications a term are computed in `f64`.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use deberta_ops::{
    LANES, Lanes, Real, SharedRows, Tiles, add_skewed, exponentials, for_each, give, narrow, take, to_lanes, to_rows,
    unwritten, wide,
};
use ndarray::{Array2, Array3, ArrayView2, s};

use super::{DisentangledSelfAttention, Position};
use crate::relative_position::RelativePositions;

/// The queries of one job, at most.
const BLOCK: usize = 128;
/// The keys whose scores are completed at a time.
const KEYS: usize = 64;
/// The keys whose values are weighed at a time.
const VALUES: usize = 128;
/// An attention whose c2c has at most this many multiplications is computed in `f64`.
const SMALL: usize = 1 << 17;

/// What all layers of one forward pass share: where the sequences are, and the row of every distance.
pub(crate) struct Plan {
    /// The rows of each sequence.
    sequences: Vec<Range<usize>>,
    distances: Option<Distances>,
}

/// The relative rows of distances −(L − 1) … L − 1, L the length of the longest sequence.
struct Distances {
    /// The row of distance x at x + L − 1, less the lowest; beyond the last, it again, for lanes beyond the last query.
    rows: Vec<usize>,
    /// How the rows of x … x + 15 follow one another.
    runs: Vec<Run>,
    /// L − 1
    zero: usize,
    /// Whether rows never fall as distances grow.
    ordered: bool,
    /// The rows that occur.
    reach: Range<usize>,
}

/// How the rows of sixteen distances in a row follow one another.
#[derive(Clone, Copy, PartialEq)]
enum Run {
    /// Each is the one before it, plus one.
    Straight,
    /// They are the same.
    Flat,
    Other,
}

/// PosK/s and PosQ of the relative rows that were needed so far, head after head: [H, rows, D].
pub(super) struct Projected<T> {
    rows: Range<usize>,
    keys: Option<Array3<T>>,
    queries: Option<Array3<T>>,
}

impl Plan {
    pub(crate) fn new(sequences: Vec<Range<usize>>, positions: impl Fn(usize) -> Option<RelativePositions>) -> Self {
        let longest = sequences.iter().map(Range::len).max().unwrap_or(0).max(1);
        Self { sequences, distances: positions(longest).map(|p| Distances::new(&p, longest)) }
    }
}

impl Distances {
    fn new(positions: &RelativePositions, length: usize) -> Self {
        let zero = length - 1;
        let row = |at: usize| if at < zero { positions.row(0, zero - at) } else { positions.row(at - zero, 0) };
        let mut rows: Vec<usize> = (0..=2 * zero + LANES).map(|at| row(at.min(2 * zero))).collect();
        let lowest = rows.iter().copied().min().unwrap_or(0);
        let highest = rows.iter().copied().max().unwrap_or(0);
        rows.iter_mut().for_each(|row| *row -= lowest);
        let run = |at: usize| match rows.get(at..at + LANES) {
            Some(rows) if rows.windows(2).all(|w| w[0] + 1 == w[1]) => Run::Straight,
            Some(rows) if rows.windows(2).all(|w| w[0] == w[1]) => Run::Flat,
            _ => Run::Other,
        };
        let runs = (0..rows.len()).map(run).collect();
        let ordered = rows.is_sorted();
        Self { rows, runs, zero, ordered, reach: lowest..highest + 1 }
    }

    /// The rows that distances `from` … `to` can have, less the lowest that occurs.
    fn window(&self, from: isize, to: isize) -> Range<usize> {
        if self.ordered { self.rows[self.at(from)]..self.rows[self.at(to)] + 1 } else { 0..self.reach.len() }
    }

    /// Where a distance stands in the table.
    fn at(&self, distance: isize) -> usize {
        distance.saturating_add_unsigned(self.zero).clamp(0, 2 * self.zero as isize) as usize
    }
}

impl<'w, T: Real> DisentangledSelfAttention<'w, T> {
    /// # Shapes
    /// `queries`, `keys` and `values` [N, H·D], the rows of `plan`; `relative_rows` [R, E]; returns [N, H·D].
    pub(super) fn fused(
        &self,
        [queries, keys, values]: [ArrayView2<'_, T>; 3],
        relative_rows: Option<&Array2<T>>,
        plan: &Plan,
    ) -> Array2<T> {
        let distances = plan.distances.as_ref().zip(relative_rows).zip(self.position.as_ref());
        let position = distances.map(|((distances, rows), position)| {
            let project = |some| self.project(position, rows, some);
            (distances, position.kept.reaching(distances.reach.clone(), rows.nrows(), project))
        });
        let products: usize = plan.sequences.iter().map(|s| s.len() * s.len() * queries.ncols()).sum();
        if T::NAME != f64::NAME && products <= SMALL {
            let position = position.map(|(d, p)| (d, Arc::new(p.wide())));
            let (queries, keys, values) = (wide(&queries), wide(&keys), wide(&values));
            let inputs = [queries.view(), keys.view(), values.view()];
            return narrow(&self.heads::<f64>(inputs, position, plan));
        }
        self.heads([queries, keys, values], position, plan)
    }

    fn heads<S: Real>(
        &self,
        inputs: [ArrayView2<'_, S>; 3],
        position: Option<(&Distances, Arc<Projected<S>>)>,
        plan: &Plan,
    ) -> Array2<S> {
        let [queries, keys, values] = inputs;
        let (rows, scale) = (queries.nrows(), S::of(self.scale.wide()));
        let keys = self.apart(keys, self.head_size, |k| k / scale); // K/s, [H, N, D]
        let values = self.apart(values, LANES, |v| v); // V, [H, ⌈D/16⌉, N, 16]
        let of_head = (keys.len() / self.heads, values.len() / self.heads);
        let mut out = unwritten(queries.dim());
        // Blocks of one head follow one another, so that its keys and values are still in the cache.
        let blocks = |s: &Range<usize>| (0..s.len()).step_by(BLOCK).map(move |from| from..(from + BLOCK));
        let jobs: Vec<(&Range<usize>, usize, Range<usize>)> = plan
            .sequences
            .iter()
            .flat_map(|s| {
                (0..self.heads).flat_map(move |h| blocks(s).map(move |b| (s, h, b.start..b.end.min(s.len()))))
            })
            .collect();
        let shared = SharedRows::new(&mut out);
        for_each(jobs.len(), |i| {
            let (sequence, h, block) = jobs[i].clone();
            let columns = h * self.head_size..(h + 1) * self.head_size;
            let queries = queries.slice(s![sequence.clone(), columns.clone()]);
            let position = position.as_ref().map(|(distances, projected)| OfHead {
                distances,
                projected,
                first: distances.reach.start - projected.rows.start,
                head: h,
            });
            let keys = &keys[h * of_head.0 + sequence.start * self.head_size..][..sequence.len() * self.head_size];
            let values = Values { panels: &values[h * of_head.1 + sequence.start * LANES..], step: rows * LANES };
            let job = Job::new(keys, values, self.head_size, position, &block);
            for first in block.clone().step_by(LANES) {
                let some = first..block.end.min(first + LANES);
                let context = job.attend(first, queries.slice(s![some.clone(), ..])); // [queries, D and some more]
                for (i, context) in some.zip(context.chunks(job.width)) {
                    // SAFETY: each row and head is one job's.
                    let to = unsafe { shared.part(sequence.start + i, columns.clone()) };
                    to.copy_from_slice(&context[..to.len()]);
                }
                give(context);
            }
            job.end();
        });
        give(keys);
        give(values);
        out
    }

    /// The columns of each head by themselves, `width` of them side by side, filled up with zeros: [H, ⌈D/width⌉, N, width].
    fn apart<S: Real>(&self, rows: ArrayView2<'_, S>, width: usize, f: impl Fn(S) -> S + Sync) -> Vec<S> {
        let (size, count) = (self.head_size, self.head_size.div_ceil(width));
        let mut out = take(self.heads * count * rows.nrows() * width);
        let shared = SharedRows::of(&mut out, rows.nrows() * width);
        for_each(self.heads * count, |i| {
            let from = i / count * size + i % count * width;
            let columns = from..(from + width).min((i / count + 1) * size);
            // SAFETY: each row, of one head and place, is one job's.
            let to = unsafe { shared.row(i) };
            for (to, row) in to.chunks_exact_mut(width).zip(rows.slice(s![.., columns]).rows()) {
                to[row.len()..].fill(S::zero());
                match row.as_slice() {
                    Some(row) => to.iter_mut().zip(row).for_each(|(to, &value)| *to = f(value)),
                    None => to.iter_mut().zip(row).for_each(|(to, &value)| *to = f(value)),
                }
            }
        });
        out
    }

    /// PosK/s and PosQ of some relative rows.
    fn project(&self, position: &Position<'w, T>, relative_rows: &Array2<T>, rows: Range<usize>) -> Projected<T> {
        let some = relative_rows.slice(s![rows.clone(), ..]);
        let by_head = |projected: Array2<T>| {
            let shape = (projected.nrows(), self.heads, self.head_size);
            let apart = projected.into_shape_with_order(shape).expect("H·D columns are H times D");
            apart.permuted_axes([1, 0, 2]).as_standard_layout().into_owned()
        };
        let keys = position.c2p.then(|| {
            let projection = position.key_proj.as_ref().unwrap_or(&self.key_proj);
            by_head(projection.forward(some) / self.scale)
        });
        let queries = position.p2c.then(|| {
            let projection = position.query_proj.as_ref().unwrap_or(&self.query_proj);
            by_head(projection.forward(some))
        });
        Projected { rows, keys, queries }
    }
}

/// The projections that a model keeps, of as many relative rows as were needed so far.
pub(super) struct Kept<T>(Mutex<Option<Arc<Projected<T>>>>);

impl<T: Real> Kept<T> {
    pub(super) fn none() -> Self {
        Self(Mutex::new(None))
    }

    /// Projections that reach over `rows` of `all`. The first time they are computed for these rows; if that turns out to
    /// be too few, for all, so that no sequence of lengths costs more than two projections.
    fn reaching(
        &self,
        rows: Range<usize>,
        all: usize,
        project: impl FnOnce(Range<usize>) -> Projected<T>,
    ) -> Arc<Projected<T>> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*kept {
            Some(found) if found.rows.start <= rows.start && rows.end <= found.rows.end => Arc::clone(found),
            before => {
                let rows = if before.is_some() { 0..all } else { rows };
                Arc::clone(kept.insert(Arc::new(project(rows))))
            }
        }
    }
}

impl<T: Real> Projected<T> {
    fn wide(&self) -> Projected<f64> {
        let wide = |rows: &Option<Array3<T>>| rows.as_ref().map(|rows| wide(rows));
        Projected { rows: self.rows.clone(), keys: wide(&self.keys), queries: wide(&self.queries) }
    }
}

/// The relative side of one head.
struct OfHead<'a, S> {
    distances: &'a Distances,
    projected: &'a Projected<S>,
    /// Where the lowest row that occurs stands among the projected ones.
    first: usize,
    head: usize,
}

impl<S: Real> OfHead<'_, S> {
    /// PosK/s from a row on.
    fn keys(&self, row: usize) -> Option<&[S]> {
        self.from(row, self.projected.keys.as_ref()?)
    }

    /// PosQ from a row on.
    fn queries(&self, row: usize) -> Option<&[S]> {
        self.from(row, self.projected.queries.as_ref()?)
    }

    fn from<'a>(&self, row: usize, projected: &'a Array3<S>) -> Option<&'a [S]> {
        let (_, rows, size) = projected.dim();
        projected.as_slice()?.get((self.head * rows + self.first + row) * size..)
    }
}

/// One block of queries of one head.
struct Job<'a, S> {
    /// The number of keys.
    length: usize,
    /// D
    size: usize,
    /// D, rounded up to whole vectors.
    width: usize,
    /// K/s, [length, D]
    keys: &'a [S],
    /// V, [width/16, length, 16]
    values: Values<'a, S>,
    position: Option<OfHead<'a, S>>,
    p2c: Option<PositionToContent<S>>,
}

/// V in panels, and from panel to panel.
struct Values<'a, S> {
    panels: &'a [S],
    step: usize,
}

/// B, the scores of keys against the position queries that the block can reach.
struct PositionToContent<S> {
    /// [length, width]
    scores: Vec<S>,
    width: usize,
    /// The row at which the scores begin, for each sixteen keys.
    starts: Vec<usize>,
}

impl<'a, S: Real> Job<'a, S> {
    fn new(
        keys: &'a [S],
        values: Values<'a, S>,
        size: usize,
        position: Option<OfHead<'a, S>>,
        block: &Range<usize>,
    ) -> Self {
        let (length, width) = (keys.len() / size, size.next_multiple_of(LANES));
        let mut job = Self { length, size, width, keys, values, position, p2c: None };
        job.p2c = job.position_to_content(block);
        job
    }

    fn end(self) {
        if let Some(p2c) = self.p2c {
            give(p2c.scores);
        }
    }

    fn position_to_content(&self, block: &Range<usize>) -> Option<PositionToContent<S>> {
        let position = self.position.as_ref()?;
        position.projected.queries.as_ref()?;
        let some_keys = || (0..self.length).step_by(LANES).map(|from| from..self.length.min(from + LANES));
        // Whole vectors of queries, as `attend` takes them.
        let last = (block.start + block.len().next_multiple_of(LANES) - 1) as isize;
        let window = |keys: &Range<usize>| {
            position.distances.window(block.start as isize - (keys.end as isize - 1), last - keys.start as isize)
        };
        let width = some_keys().map(|keys| window(&keys).len()).max().unwrap_or(0);
        let (mut panel, mut of_rows) = (take(self.size * LANES), take(width * LANES));
        let mut scores = take(self.length * width);
        let mut starts = Vec::with_capacity(self.length.div_ceil(LANES));
        for (keys, scores) in some_keys().zip(scores.chunks_mut(LANES * width)) {
            let window = window(&keys);
            let of_keys = &self.keys[keys.start * self.size..keys.end * self.size];
            to_lanes(&of_keys.chunks(self.size).collect::<Vec<_>>(), panel.as_chunks_mut().0);
            let of_rows = &mut of_rows[..window.len() * LANES];
            self.score(position.queries(window.start)?, window.len(), &panel, of_rows);
            to_rows(of_rows.as_chunks().0, &mut scores.chunks_mut(width).collect::<Vec<_>>());
            starts.push(window.start);
        }
        give(panel);
        give(of_rows);
        Some(PositionToContent { scores, width, starts })
    }

    /// The context of up to sixteen queries from `first` on, [queries, width].
    fn attend(&self, first: usize, queries: ArrayView2<'_, S>) -> Vec<S> {
        // 1. The queries, side by side.
        let mut panel = take(self.size * LANES);
        let rows: Vec<_> = queries.rows().into_iter().map(|query| query.to_slice().expect("a row is whole")).collect();
        to_lanes(&rows, panel.as_chunks_mut().0);
        // 2. The scores, [length, 16].
        let mut scores = take(self.length * LANES);
        self.score(self.keys, self.length, &panel, &mut scores);
        self.add_content_to_position(first, &panel, scores.as_chunks_mut().0);
        self.add_position_to_content(first, scores.as_chunks_mut().0);
        give(panel);
        // 3. Their exponentials, and the values that these weigh.
        let sums = exponentials(scores.as_chunks_mut().0);
        let mut context = take(queries.nrows() * self.width);
        for keys in (0..self.length).step_by(VALUES) {
            let tiles = Tiles {
                depth: VALUES.min(self.length - keys),
                rows: queries.nrows(),
                panels: self.width / LANES,
                a: &scores[keys * LANES..],
                a_row: 1,
                a_depth: LANES,
                x: &self.values.panels[keys * LANES..],
                x_depth: LANES,
                x_panel: self.values.step,
                c_row: self.width,
                c_panel: LANES,
                accumulates: keys > 0,
                ahead: 0,
            };
            tiles.compute(&mut context);
        }
        give(scores);
        for (context, sum) in context.chunks_mut(self.width).zip(sums) {
            let share = 1.0 / sum;
            context.iter_mut().for_each(|c| *c = S::of(c.wide() * share));
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
            a_depth: 1,
            x: panel,
            x_depth: LANES,
            x_panel: 0,
            c_row: LANES,
            c_panel: 0,
            accumulates: false,
            ahead: 0,
        };
        tiles.compute(scores);
    }

    fn add_content_to_position(&self, first: usize, panel: &[S], scores: &mut [Lanes<S>]) {
        let Some(position) = &self.position else { return };
        let (first, length) = (first as isize, self.length as isize);
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
            let rows = &position.distances.rows[position.distances.at(first - last_key)..];
            let terms = &mut of_distances[..scores.len() + LANES - 1];
            terms.iter_mut().zip(rows).for_each(|(term, row)| *term = terms_of[row - window.start]);
            add_skewed(scores, terms, &mut space);
        }
        give(of_rows);
    }

    fn add_position_to_content(&self, first: usize, scores: &mut [Lanes<S>]) {
        let (Some(position), Some(p2c)) = (&self.position, &self.p2c) else { return };
        let distances = position.distances;
        let blocks = scores.chunks_mut(LANES).zip(&p2c.starts);
        let of_keys = p2c.scores.chunks(p2c.width);
        // The distance of the first query from the first key; it falls by one from key to key.
        let from = distances.at(first as isize);
        let scores = blocks.flat_map(|(scores, start)| scores.iter_mut().map(move |score| (score, start)));
        for (((score, start), of_rows), x) in scores.zip(of_keys).zip((0..=from).rev()) {
            let rows = &distances.rows[x..x + LANES];
            let at = rows[0] - start;
            match distances.runs[x] {
                Run::Straight => {
                    score.iter_mut().zip(&of_rows[at..at + LANES]).for_each(|(s, &term)| *s += term);
                }
                Run::Flat => score.iter_mut().for_each(|s| *s += of_rows[at]),
                Run::Other => score.iter_mut().zip(rows).for_each(|(s, row)| *s += of_rows[row - start]),
            }
        }
    }
}
