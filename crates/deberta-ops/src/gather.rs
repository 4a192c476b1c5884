//! Rows and columns picked by index: embedding look-ups, and the step that turns scores against relative rows into
//! scores against keys.
//!
//! c2p[i, j] = A[i, col(i, j)] with A = Q·PosKᵀ, and p2c[i, j] = B[j, col(i, j)] with B = K·PosQᵀ: content-to-position
//! looks up the query's row, position-to-content the key's. Both use the same column, that of the distance i − j
//! (`DebertaV2`'s `c2p_pos` and, seen through its transpose, `p2c_pos`).

use ndarray::{Array2, ArrayView1, ArrayView2};

use crate::Real;

/// The rows of a table at `indices`.
///
/// # Shapes
/// `table` [V, E], `indices` \[N\], each below V; returns [N, E].
///
/// # Panics
/// If an index is out of range; callers check what comes from a user first.
pub fn gather_rows<T: Real>(table: ArrayView2<'_, T>, indices: ArrayView1<'_, usize>) -> Array2<T> {
    let mut out = Array2::zeros((indices.len(), table.ncols()));
    for (mut row, &index) in out.rows_mut().into_iter().zip(indices) {
        row.assign(&table.row(index));
    }
    out
}

/// c2p[i, j] = scores[i, columns[i, j]].
///
/// # Shapes
/// `scores` [Q, R], `columns` [Q, K] with entries below R; returns [Q, K].
///
/// # Panics
/// If a column is out of range.
pub fn gather_c2p<T: Real>(scores: ArrayView2<'_, T>, columns: ArrayView2<'_, usize>) -> Array2<T> {
    Array2::from_shape_fn(columns.raw_dim(), |(i, j)| scores[[i, columns[[i, j]]]])
}

/// p2c[i, j] = scores[j, columns[i, j]].
///
/// # Shapes
/// `scores` [K, R], `columns` [Q, K] with entries below R; returns [Q, K].
///
/// # Panics
/// If a column is out of range.
pub fn gather_p2c<T: Real>(scores: ArrayView2<'_, T>, columns: ArrayView2<'_, usize>) -> Array2<T> {
    Array2::from_shape_fn(columns.raw_dim(), |(i, j)| scores[[j, columns[[i, j]]]])
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    #[test]
    fn rows_repeat_and_reorder() {
        let table = array![[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]];
        let rows = gather_rows(table.view(), array![2, 0, 2].view());
        assert_eq!(rows, array![[5.0, 6.0], [1.0, 2.0], [5.0, 6.0]]);
    }

    #[test]
    fn c2p_reads_the_querys_row_and_p2c_the_keys() {
        // Two queries, three keys, five relative rows: no two sizes agree, so swapped axes cannot pass.
        let columns = array![[2, 1, 0], [3, 2, 1]];
        let of_queries = array![[0.0, 1.0, 2.0, 3.0, 4.0], [10.0, 11.0, 12.0, 13.0, 14.0]];
        assert_eq!(gather_c2p(of_queries.view(), columns.view()), array![[2.0, 1.0, 0.0], [13.0, 12.0, 11.0]]);
        let of_keys = array![[0.0, 1.0, 2.0, 3.0, 4.0], [10.0, 11.0, 12.0, 13.0, 14.0], [20.0, 21.0, 22.0, 23.0, 24.0]];
        assert_eq!(gather_p2c(of_keys.view(), columns.view()), array![[2.0, 11.0, 20.0], [3.0, 12.0, 21.0]]);
    }
}
