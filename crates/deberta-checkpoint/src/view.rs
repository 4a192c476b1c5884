//! Where the elements of a tensor lie in a run of bytes: an offset and strides, both in elements.
//!
//! PyTorch's views, the transposes of TensorFlow's kernels and the per-head interleaving of Microsoft's old `in_proj` are
//! all the same thing here, so that no rearrangement costs memory before its result is written. `dims` may be finer than
//! the shape a tensor shows: the query part of an interleaved `in_proj.weight` [3·H·D, E] has `dims`
//! (H, 3·D·E), (D, E), (E, 1) and shape [H·D, E]. The elements of both, taken in row-major order, are the same.

use std::ops::Range;

/// A dimension: how many steps, and how many elements each step skips.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Dim {
    pub len: usize,
    pub stride: usize,
}

/// The elements of a tensor within a storage.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct View {
    /// The first element, counted from the start of the storage.
    pub offset: usize,
    /// The outermost dimension first.
    pub dims: Vec<Dim>,
}

impl View {
    /// All elements of `shape` one after the other, from `offset` on. `None` where their number overflows.
    pub fn row_major(shape: &[usize], offset: usize) -> Option<Self> {
        let mut stride = 1usize;
        let mut dims = vec![Dim { len: 0, stride: 0 }; shape.len()];
        for (dim, &len) in dims.iter_mut().zip(shape).rev() {
            *dim = Dim { len, stride };
            stride = stride.checked_mul(len.max(1))?;
        }
        offset.checked_add(stride)?;
        Some(Self { offset, dims })
    }

    /// A view with PyTorch's own strides.
    pub fn strided(shape: &[usize], strides: &[usize], offset: usize) -> Option<Self> {
        let dims = shape.iter().zip(strides).map(|(&len, &stride)| Dim { len, stride }).collect();
        let view = Self { offset, dims };
        view.count()?;
        view.end()?;
        Some(view)
    }

    /// One element shown `count` times.
    pub fn repeated(count: usize) -> Self {
        Self { offset: 0, dims: vec![Dim { len: count, stride: 0 }] }
    }

    /// How many elements it shows; `None` on overflow.
    pub fn count(&self) -> Option<usize> {
        self.dims.iter().try_fold(1usize, |n, d| n.checked_mul(d.len))
    }

    /// One past the last element it touches; `None` on overflow.
    pub fn end(&self) -> Option<usize> {
        if self.dims.iter().any(|d| d.len == 0) {
            return Some(self.offset);
        }
        let last =
            self.dims.iter().try_fold(self.offset, |at, d| at.checked_add((d.len - 1).checked_mul(d.stride)?))?;
        last.checked_add(1)
    }

    /// Whether the elements lie one after the other.
    pub fn is_contiguous(&self) -> bool {
        let mut expected = 1;
        for dim in self.dims.iter().rev().filter(|d| d.len != 1) {
            if dim.stride != expected && dim.len != 0 {
                return false;
            }
            expected = expected.saturating_mul(dim.len);
        }
        true
    }

    /// Drops dimensions of length one and joins those that lie one after the other, so that equal views are equal.
    pub fn simplified(&self) -> Self {
        let mut dims: Vec<Dim> = Vec::with_capacity(self.dims.len());
        for &dim in self.dims.iter().filter(|d| d.len != 1) {
            match dims.last_mut() {
                Some(outer) if dim.len.checked_mul(dim.stride) == Some(outer.stride) => {
                    *outer = Dim { len: outer.len * dim.len, stride: dim.stride };
                }
                _ => dims.push(dim),
            }
        }
        Self { offset: self.offset, dims }
    }

    /// The dimensions in another order: dimension `i` of the result is `axes[i]` of this one.
    pub fn permuted(&self, axes: &[usize]) -> Self {
        Self { offset: self.offset, dims: axes.iter().map(|&a| self.dims[a]).collect() }
    }

    /// Copies the elements `range`, counted in row-major order, of `size` bytes each, from `storage` to `out`.
    /// The view must lie within `storage` (checked when a checkpoint is opened).
    pub fn gather(&self, storage: &[u8], size: usize, range: Range<usize>, out: &mut [u8]) {
        debug_assert_eq!(out.len(), range.len() * size);
        if range.is_empty() {
            return;
        }
        let view = self.simplified();
        if let [rows, columns] = view.dims[..]
            && rows.stride == 1
            && columns.stride != 1
        {
            return view.gather_transposed(storage, size, range, out);
        }
        view.gather_runs(storage, size, range, out);
    }

    /// [`Self::gather`] of a transpose: whole rows go tile by tile, so that each cache line of the source is used up.
    fn gather_transposed(&self, storage: &[u8], size: usize, range: Range<usize>, out: &mut [u8]) {
        let columns = self.dims[1].len;
        let (first, last) = (range.start.div_ceil(columns), range.end / columns);
        if last <= first {
            return self.gather_runs(storage, size, range, out);
        }
        let (head, rest) = out.split_at_mut((first * columns - range.start) * size);
        let (whole, tail) = rest.split_at_mut((last - first) * columns * size);
        self.gather_runs(storage, size, range.start..first * columns, head);
        self.gather_runs(storage, size, last * columns..range.end, tail);
        match size {
            1 => self.tiles::<1>(storage, first, whole),
            2 => self.tiles::<2>(storage, first, whole),
            4 => self.tiles::<4>(storage, first, whole),
            _ => self.tiles::<8>(storage, first, whole),
        }
    }

    /// Whole rows of a transpose from row `first` on, of elements of `N` bytes.
    fn tiles<const N: usize>(&self, storage: &[u8], first: usize, out: &mut [u8]) {
        const TILE: usize = 16;
        let (columns, stride) = (self.dims[1].len, self.dims[1].stride);
        let slots = out.as_chunks_mut::<N>().0;
        for (block, band) in slots.chunks_mut(TILE * columns).enumerate() {
            let row = first + block * TILE;
            let rows = band.len() / columns;
            for column in 0..columns {
                let start = (self.offset + row + column * stride) * N;
                let source = storage[start..start + rows * N].as_chunks::<N>().0;
                for (i, value) in source.iter().enumerate() {
                    band[i * columns + column] = *value;
                }
            }
        }
    }

    /// [`Self::gather`], run by run along the last dimension.
    fn gather_runs(&self, storage: &[u8], size: usize, range: Range<usize>, out: &mut [u8]) {
        if range.is_empty() {
            return;
        }
        let view = self;
        let Some((&inner, outer)) = view.dims.split_last() else {
            out.copy_from_slice(&storage[view.offset * size..][..size]);
            return;
        };
        // The index of the first element, one digit a dimension, and where its row starts.
        let mut digits = vec![0; outer.len()];
        let mut row = range.start / inner.len;
        for (digit, dim) in digits.iter_mut().zip(outer).rev() {
            (*digit, row) = (row % dim.len, row / dim.len);
        }
        let mut column = range.start % inner.len;
        let mut out = out;
        while !out.is_empty() {
            let start = view.offset + digits.iter().zip(outer).map(|(i, d)| i * d.stride).sum::<usize>();
            let columns = (inner.len - column).min(out.len() / size);
            let (head, rest) = out.split_at_mut(columns * size);
            copy_run(storage, size, start + column * inner.stride, inner.stride, head);
            out = rest;
            column = 0;
            for (digit, dim) in digits.iter_mut().zip(outer).rev() {
                *digit += 1;
                if *digit < dim.len {
                    break;
                }
                *digit = 0;
            }
        }
    }
}

/// Copies elements `start`, `start + stride`, … until `out` is full.
fn copy_run(storage: &[u8], size: usize, start: usize, stride: usize, out: &mut [u8]) {
    if stride == 1 {
        out.copy_from_slice(&storage[start * size..][..out.len()]);
        return;
    }
    /// The size is known to the compiler for the sizes that occur, which makes the copy a plain move.
    fn each<const N: usize>(storage: &[u8], start: usize, stride: usize, out: &mut [u8]) {
        for (i, slot) in out.as_chunks_mut::<N>().0.iter_mut().enumerate() {
            let at = (start + i * stride) * N;
            slot.copy_from_slice(&storage[at..at + N]);
        }
    }
    match size {
        1 => each::<1>(storage, start, stride, out),
        2 => each::<2>(storage, start, stride, out),
        4 => each::<4>(storage, start, stride, out),
        8 => each::<8>(storage, start, stride, out),
        _ => {
            for (i, slot) in out.chunks_exact_mut(size).enumerate() {
                slot.copy_from_slice(&storage[(start + i * stride) * size..][..size]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(view: &View, storage: &[u8]) -> Vec<u8> {
        let mut out = vec![0; view.count().unwrap()];
        view.gather(storage, 1, 0..out.len(), &mut out);
        out
    }

    #[test]
    fn a_transpose_reads_columns() {
        let storage: Vec<u8> = (0..6).collect();
        let view = View::row_major(&[2, 3], 0).unwrap().permuted(&[1, 0]);
        assert!(!view.is_contiguous());
        assert_eq!(all(&view, &storage), [0, 3, 1, 4, 2, 5]);
    }

    #[test]
    fn any_range_of_a_permuted_view_is_the_same_part_of_the_whole() {
        let storage: Vec<u8> = (0..2 * 3 * 5 * 7).collect();
        let view = View::row_major(&[2, 3, 5, 7], 0).unwrap().permuted(&[2, 0, 3, 1]);
        let whole = all(&view, &storage);
        let oracle: Vec<u8> =
            indices(&[5, 2, 7, 3]).map(|i| ((i[1] * 3 + i[3]) * 5 + i[0]) * 7 + i[2]).map(|x| x as u8).collect();
        assert_eq!(whole, oracle);
        for start in 0..whole.len() {
            for end in [start, start + 1, whole.len()] {
                let mut part = vec![0; end.min(whole.len()) - start];
                view.gather(&storage, 1, start..start + part.len(), &mut part);
                assert_eq!(part, whole[start..start + part.len()]);
            }
        }
    }

    #[test]
    fn a_transpose_in_tiles_is_the_transpose() {
        for (rows, columns) in [(37, 53), (16, 16), (1, 40), (40, 1), (33, 5)] {
            let storage: Vec<u8> = (0..rows * columns * 4).map(|i| (i * 31 % 251) as u8).collect();
            let view = View::row_major(&[columns, rows], 0).unwrap().permuted(&[1, 0]);
            let element = |i: usize| {
                let (row, column) = (i / columns, i % columns);
                storage[(column * rows + row) * 4..][..4].to_vec()
            };
            let count = rows * columns;
            for start in [0, 1, columns - 1, columns, count / 2] {
                for end in [start, count.min(start + 1), count.min(start + 3 * columns + 2), count] {
                    let mut out = vec![0; (end - start) * 4];
                    view.gather(&storage, 4, start..end, &mut out);
                    assert_eq!(
                        out,
                        (start..end).flat_map(element).collect::<Vec<u8>>(),
                        "{rows}x{columns} {start}..{end}"
                    );
                }
            }
        }
    }

    fn indices(shape: &[usize]) -> impl Iterator<Item = Vec<usize>> {
        let shape = shape.to_vec();
        (0..shape.iter().product()).map(move |mut flat| {
            let mut index = vec![0; shape.len()];
            for (i, len) in index.iter_mut().zip(&shape).rev() {
                (*i, flat) = (flat % len, flat / len);
            }
            index
        })
    }

    #[test]
    fn zero_strides_repeat_and_empty_views_touch_nothing() {
        assert_eq!(all(&View::repeated(3), &[9]), [9, 9, 9]);
        let empty = View::strided(&[0, 5], &[5, 1], 100).unwrap();
        assert_eq!(empty.end(), Some(100));
        assert!(all(&empty, &[]).is_empty());
        assert!(empty.is_contiguous());
    }

    #[test]
    fn sizes_that_overflow_are_none() {
        assert!(View::row_major(&[usize::MAX, 2], 0).is_none());
        assert!(View::strided(&[usize::MAX, 2], &[0, 0], 0).is_none());
        assert!(View::strided(&[3], &[usize::MAX], 0).is_none());
        assert!(View::strided(&[2], &[1], usize::MAX).is_none());
    }
}
