//! The singular values of a weight matrix, W = U·diag(σ)·Vᵀ, and what they say of it.
//!
//! | figure | is |
//! |---|---|
//! | top, bottom | σ₁, the largest, and σₙ, the smallest of n = min(rows, columns) |
//! | condition | σ₁/σₙ |
//! | effective rank | exp(−Σ p·ln p), p = σ/Σσ: n where all are equal, 1 where one is all (Roy and Vetterli 2007) |
//! | stable rank | ‖W‖²/σ₁² = Σσ²/σ₁²: at most the rank, and moved by no small noise |
//!
//! # Numerics
//! Everything is computed in f64 by LAPACK, through OpenBLAS. A matrix of more than `TALL` times as many rows as columns (an
//! embedding) is not decomposed itself: its singular values are the roots of the eigenvalues of WᵀW, summed up over blocks of
//! rows. That squares them, so those below about 1e-8·σ₁ drown in rounding; they are given as found, and [`Method`] says so.
//! A tensor of more axes is a matrix of its first axis by all others.

use deberta_verify::Tensor;
use ndarray::{Array2, s};
use serde::Serialize;

/// From how many times as many rows as columns on a matrix is decomposed by way of WᵀW.
const TALL: usize = 8;

/// How many numbers of a tall matrix are in memory at a time.
const BLOCK: usize = 1 << 22;

/// How singular values were computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// From the matrix itself.
    Svd,
    /// As the roots of the eigenvalues of WᵀW: none below about 1e-8 of the largest is told from zero.
    Gram,
}

/// The singular values of a matrix.
#[derive(Clone, Debug, Serialize)]
pub struct Spectrum {
    /// The number of its rows.
    pub rows: usize,
    /// The number of its columns.
    pub columns: usize,
    /// How the values were computed.
    pub method: Method,
    /// The singular values, the largest first.
    pub values: Vec<f64>,
}

impl Spectrum {
    /// The largest singular value: by how much the matrix stretches at most.
    pub fn top(&self) -> f64 {
        self.values.first().copied().unwrap_or(0.0)
    }

    /// The smallest.
    pub fn bottom(&self) -> f64 {
        self.values.last().copied().unwrap_or(0.0)
    }

    /// The largest over the smallest; infinite where the smallest is zero.
    pub fn condition(&self) -> f64 {
        self.top() / self.bottom()
    }

    /// The Frobenius norm.
    pub fn norm(&self) -> f64 {
        self.values.iter().map(|s| s * s).sum::<f64>().sqrt()
    }

    /// exp of the entropy of the normalized singular values; 0 for a matrix of zeros.
    pub fn effective_rank(&self) -> f64 {
        let sum: f64 = self.values.iter().sum();
        if sum == 0.0 {
            return 0.0;
        }
        let shares = self.values.iter().map(|s| s / sum).filter(|p| *p > 0.0);
        (-shares.map(|p| p * p.ln()).sum::<f64>()).exp()
    }

    /// ‖W‖²/σ₁²; 0 for a matrix of zeros.
    pub fn stable_rank(&self) -> f64 {
        if self.top() == 0.0 { 0.0 } else { (self.norm() / self.top()).powi(2) }
    }
}

/// The size of a tensor as a matrix; `None` where it is none, or an empty one.
pub fn matrix_size(shape: &[usize]) -> Option<(usize, usize)> {
    let (&rows, rest) = shape.split_first()?;
    let columns: usize = rest.iter().product();
    (!rest.is_empty() && rows > 1 && columns > 1).then_some((rows, columns))
}

/// The time that a spectrum takes, in numbers that may be added up: the floating-point operations of its slower part.
pub fn cost((rows, columns): (usize, usize)) -> u64 {
    let (long, short) = (rows.max(columns) as u64, rows.min(columns) as u64);
    // The reduction to bidiagonal form runs at the speed of memory, ten times slower than products do.
    let reduction = short.pow(3) * 27;
    long * short * short * 2 + reduction
}

/// Computes the singular values of a tensor of two or more axes.
///
/// # Errors
/// A sentence: it is no matrix, it holds NaN or infinity, or LAPACK gave up.
pub fn spectrum(tensor: &Tensor) -> Result<Spectrum, String> {
    let (rows, columns) = matrix_size(tensor.shape()).ok_or("it is no matrix")?;
    if !tensor.values().all(f64::is_finite) {
        return Err("it holds NaN or infinity, so it has no singular values".into());
    }
    let (method, mut values) = if rows / columns >= TALL {
        (Method::Gram, by_gram(tensor, rows, columns)?)
    } else {
        (Method::Svd, lapack::singular_values(tensor_matrix(tensor, rows, columns))?)
    };
    values.sort_by(|a, b| b.total_cmp(a));
    Ok(Spectrum { rows, columns, method, values })
}

fn tensor_matrix(tensor: &Tensor, rows: usize, columns: usize) -> Array2<f64> {
    let mut values = tensor.values();
    Array2::from_shape_simple_fn((rows, columns), || values.next().unwrap_or(0.0))
}

fn by_gram(tensor: &Tensor, rows: usize, columns: usize) -> Result<Vec<f64>, String> {
    let mut gram = Array2::<f64>::zeros((columns, columns));
    let height = (BLOCK / columns).clamp(1, rows);
    let mut block = Array2::<f64>::zeros((height, columns));
    let mut values = tensor.values();
    for start in (0..rows).step_by(height) {
        let here = height.min(rows - start);
        let mut block = block.slice_mut(s![..here, ..]);
        block.map_inplace(|x| *x = values.next().unwrap_or(0.0));
        ndarray::linalg::general_mat_mul(1.0, &block.t(), &block, 1.0, &mut gram);
    }
    let squares = lapack::eigenvalues(gram)?;
    Ok(squares.into_iter().map(|square| square.max(0.0).sqrt()).collect())
}

/// Whether this program can compute spectra.
pub const AVAILABLE: bool = cfg!(feature = "openblas");

#[cfg(feature = "openblas")]
mod lapack {
    use ndarray::Array2;
    use ndarray_linalg::{EigValsh, JobSvd, SVDDCInto, UPLO};

    pub fn singular_values(matrix: Array2<f64>) -> Result<Vec<f64>, String> {
        let (_, values, _) = matrix.svddc_into(JobSvd::None).map_err(|e| e.to_string())?;
        Ok(values.to_vec())
    }

    pub fn eigenvalues(symmetric: Array2<f64>) -> Result<Vec<f64>, String> {
        Ok(symmetric.eigvalsh(UPLO::Lower).map_err(|e| e.to_string())?.to_vec())
    }
}

#[cfg(not(feature = "openblas"))]
mod lapack {
    use ndarray::Array2;

    const WITHOUT: &str = "singular values need OpenBLAS, which this program was built without";

    pub fn singular_values(_: Array2<f64>) -> Result<Vec<f64>, String> {
        Err(WITHOUT.into())
    }

    pub fn eigenvalues(_: Array2<f64>) -> Result<Vec<f64>, String> {
        Err(WITHOUT.into())
    }
}

#[cfg(all(test, feature = "openblas"))]
mod tests {
    use deberta_testkit::oracle::Rng;
    use ndarray::{Array1, ArrayD, Axis};

    use super::*;

    /// Rows of an orthonormal set, by Gram and Schmidt.
    fn orthonormal(count: usize, width: usize, rng: &mut Rng) -> Array2<f64> {
        let mut rows: Vec<Array1<f64>> = Vec::new();
        while rows.len() < count {
            let mut row = rng.vector(width);
            for _ in 0..2 {
                for other in &rows {
                    let along = row.dot(other);
                    row.scaled_add(-along, other);
                }
            }
            row /= row.dot(&row).sqrt();
            rows.push(row);
        }
        let views: Vec<_> = rows.iter().map(|r| r.view()).collect();
        ndarray::stack(Axis(0), &views).expect("rows of one width")
    }

    /// A matrix with the singular values given.
    fn with_values(values: &[f64], rows: usize, columns: usize) -> Tensor {
        let mut rng = Rng::new(5);
        let (u, v) = (orthonormal(values.len(), rows, &mut rng), orthonormal(values.len(), columns, &mut rng));
        let scaled = Array2::from_shape_fn(v.dim(), |(i, j)| values[i] * v[[i, j]]);
        let matrix: ArrayD<f64> = u.t().dot(&scaled).into_dyn();
        Tensor::from_f64(&matrix)
    }

    #[test]
    fn known_singular_values_are_found_by_either_method() {
        let values = [8.0, 4.0, 2.0, 1.0, 0.5];
        for (rows, columns, method) in [(5, 9, Method::Svd), (9, 5, Method::Svd), (80, 5, Method::Gram)] {
            let found = spectrum(&with_values(&values, rows, columns)).expect("a matrix");
            assert_eq!((found.method, found.values.len()), (method, 5));
            for (a, b) in found.values.iter().zip(values) {
                // Backward error of a decomposition of this size; squared values lose half of the digits below the top.
                assert!((a - b).abs() < 1e-12, "{a} for {b}");
            }
            assert!((found.top() - 8.0).abs() < 1e-12 && (found.condition() - 16.0).abs() < 1e-10);
            assert!((found.stable_rank() - (64.0 + 16.0 + 4.0 + 1.0 + 0.25) / 64.0).abs() < 1e-12);
            let entropy: f64 = values.iter().map(|v| v / 15.5).map(|p| -p * p.ln()).sum();
            assert!((found.effective_rank() - entropy.exp()).abs() < 1e-10);
        }
    }

    #[test]
    fn equal_values_have_full_effective_rank_and_zeros_none() {
        let found = spectrum(&with_values(&[3.0; 4], 4, 7)).expect("a matrix");
        assert!((found.effective_rank() - 4.0).abs() < 1e-10 && (found.stable_rank() - 4.0).abs() < 1e-10);
        let zeros = spectrum(&Tensor::from_f64(&ArrayD::zeros(vec![3, 4]))).expect("a matrix");
        assert_eq!((zeros.effective_rank(), zeros.stable_rank(), zeros.norm()), (0.0, 0.0, 0.0));
    }

    #[test]
    fn what_has_no_spectrum_says_why() {
        let nan = Tensor::from_f64(&ArrayD::from_elem(vec![2, 2], f64::NAN));
        assert!(spectrum(&nan).expect_err("no matrix of numbers").contains("NaN"));
        assert!(spectrum(&Tensor::from_f64(&ArrayD::zeros(vec![5]))).is_err());
        assert_eq!(matrix_size(&[4, 3, 2]), Some((4, 6)));
        assert_eq!(matrix_size(&[4, 0]), None);
        assert_eq!(matrix_size(&[]), None);
    }
}
