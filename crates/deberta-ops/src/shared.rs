//! Arrays that several threads write at once, each its own part.

use std::marker::PhantomData;
use std::ops::Range;

use ndarray::Array2;

/// Rows of one width, one after the other, of which each thread writes those parts that are its own.
pub struct SharedRows<'a, T> {
    start: *mut T,
    rows: usize,
    width: usize,
    of: PhantomData<&'a mut [T]>,
}

// SAFETY: it hands out nothing but what `part` says, whose caller promises that no two parts overlap.
unsafe impl<T: Send> Send for SharedRows<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for SharedRows<'_, T> {}

impl<'a, T> SharedRows<'a, T> {
    /// The rows of an array.
    ///
    /// # Panics
    /// If they do not lie one after the other.
    pub fn new(array: &'a mut Array2<T>) -> Self {
        let width = array.ncols();
        Self::of(array.as_slice_mut().expect("an array whose rows follow one another"), width)
    }

    /// Numbers as rows of `width`; those left over are nobody's.
    pub fn of(numbers: &'a mut [T], width: usize) -> Self {
        let rows = numbers.len().checked_div(width).unwrap_or(0);
        Self { start: numbers.as_mut_ptr(), rows, width, of: PhantomData }
    }

    /// The number of columns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Some columns of a row.
    ///
    /// # Safety
    /// Nobody else has been handed any of them, or no longer uses it.
    ///
    /// # Panics
    /// If there are no such rows or columns.
    #[allow(clippy::mut_from_ref, reason = "that is what it is for; the caller promises that it is sound")]
    pub unsafe fn part(&self, row: usize, columns: Range<usize>) -> &mut [T] {
        assert!(row < self.rows && columns.start <= columns.end && columns.end <= self.width, "within the array");
        // SAFETY: within the array, as was just checked; exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(row * self.width + columns.start), columns.len()) }
    }

    /// Where a row's column lies, and how many numbers follow until the end of all rows.
    ///
    /// # Panics
    /// If there is no such row or column.
    pub fn from(&self, row: usize, column: usize) -> (*mut T, usize) {
        assert!(row < self.rows && column < self.width, "within the array");
        let at = row * self.width + column;
        (self.start.wrapping_add(at), self.rows * self.width - at)
    }

    /// A whole row.
    ///
    /// # Safety
    /// As for [`Self::part`].
    #[allow(clippy::mut_from_ref, reason = "as above")]
    pub unsafe fn row(&self, row: usize) -> &mut [T] {
        // SAFETY: the caller's promise.
        unsafe { self.part(row, 0..self.width) }
    }
}
