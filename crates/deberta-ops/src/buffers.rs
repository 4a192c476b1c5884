//! Memory that is used again: large arrays are handed back when they are no longer needed, and handed out to whoever next
//! needs as much.
//!
//! Asked of the system each time, a large array costs about as much as reading it thrice: it is unmapped when freed, and
//! each of its pages is zeroed again at the first touch.

use std::sync::{Mutex, PoisonError};

use ndarray::Array2;

use crate::Real;

/// The arrays that lie ready.
#[derive(Debug)]
pub struct Drawer<T>(Mutex<Vec<Vec<T>>>);

/// No more arrays than this are kept; the smallest goes first.
const KEPT: usize = 12;

impl<T> Drawer<T> {
    pub(crate) const fn empty() -> Self {
        Self(Mutex::new(Vec::new()))
    }
}

/// `len` numbers, whatever they are.
pub fn take<T: Real>(len: usize) -> Vec<T> {
    let mut ready = T::drawer().0.lock().unwrap_or_else(PoisonError::into_inner);
    let best = (0..ready.len()).filter(|&i| ready[i].len() >= len).min_by_key(|&i| ready[i].len());
    match best {
        // One that is much too large is left for those who need it.
        Some(i) if ready[i].len() <= 2 * len => {
            let mut found = ready.swap_remove(i);
            found.truncate(len);
            found
        }
        _ => vec![T::zero(); len],
    }
}

/// Hands back numbers that nobody needs any more.
pub fn give<T: Real>(numbers: Vec<T>) {
    let mut ready = T::drawer().0.lock().unwrap_or_else(PoisonError::into_inner);
    ready.push(numbers);
    if ready.len() > KEPT
        && let Some(smallest) = (0..ready.len()).min_by_key(|&i| ready[i].len())
    {
        ready.swap_remove(smallest);
    }
}

/// An array of that shape, whatever it holds: for results that are written in full.
pub fn unwritten<T: Real>(shape: (usize, usize)) -> Array2<T> {
    Array2::from_shape_vec(shape, take(shape.0 * shape.1)).expect("as many numbers as the shape says")
}

/// Hands back an array that nobody needs any more.
pub fn recycle<T: Real>(array: Array2<T>) {
    give(array.into_raw_vec_and_offset().0);
}

/// Frees what lies ready.
pub fn clear_buffers<T: Real>() {
    T::drawer().0.lock().unwrap_or_else(PoisonError::into_inner).clear();
}
