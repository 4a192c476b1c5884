//! Memory that is used again: large arrays are handed back when they are no longer needed, and handed out to whoever next
//! needs as much.
//!
//! Asked of the system each time, a large array costs about as much as reading it thrice: it is unmapped when freed, and
//! each of its pages is zeroed again at the first touch.

use std::ops::{Deref, DerefMut, Range};
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

/// Numbers of which the first begins a line of the cache, so that sixteen of `f32` lie in one: what the system hands out begins a
/// quarter of a line later, and every second load of eight would touch two.
#[derive(Debug)]
pub struct Buffer<T> {
    numbers: Vec<T>,
    part: Range<usize>,
}

/// The bytes of a line.
const LINE: usize = 64;

impl<T> Deref for Buffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.numbers[self.part.clone()]
    }
}

impl<T> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.numbers[self.part.clone()]
    }
}

impl<T: Real> Buffer<T> {
    /// Each number in another type.
    pub fn map<S: Real>(&self, f: impl Fn(T) -> S) -> Buffer<S> {
        let mut out = take(self.len());
        out.iter_mut().zip(self.iter()).for_each(|(to, &v)| *to = f(v));
        out
    }
}

/// `len` numbers, whatever they are.
pub fn take<T: Real>(len: usize) -> Buffer<T> {
    let most = LINE / size_of::<T>() - 1;
    let numbers: Vec<T> = take_any(len + most);
    let first = numbers.as_ptr().align_offset(LINE).min(most);
    Buffer { numbers, part: first..first + len }
}

/// Hands back numbers that nobody needs any more.
pub fn give<T: Real>(buffer: Buffer<T>) {
    give_any(buffer.numbers);
}

/// The same as the system hands them out.
fn take_any<T: Real>(len: usize) -> Vec<T> {
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

fn give_any<T: Real>(numbers: Vec<T>) {
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
    Array2::from_shape_vec(shape, take_any(shape.0 * shape.1)).expect("as many numbers as the shape says")
}

/// Hands back an array that nobody needs any more.
pub fn recycle<T: Real>(array: Array2<T>) {
    give_any(array.into_raw_vec_and_offset().0);
}

/// Frees what lies ready.
pub fn clear_buffers<T: Real>() {
    T::drawer().0.lock().unwrap_or_else(PoisonError::into_inner).clear();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_begin_a_line_and_are_used_again() {
        for len in [0, 1, 16, 12_345, 1 << 20] {
            let buffer = take::<f32>(len);
            assert_eq!((buffer.len(), buffer.as_ptr() as usize % LINE), (len, 0));
            let wide = buffer.map(Real::wide);
            assert_eq!((wide.len(), wide.as_ptr() as usize % LINE), (len, 0));
            let (whole, numbers) = (buffer.numbers.len(), buffer.numbers.as_ptr());
            give(buffer);
            // Other tests take numbers meanwhile, but not as many.
            if len == 1 << 20 {
                let again = take::<f32>(len);
                assert_eq!((again.numbers.len(), again.numbers.as_ptr()), (whole, numbers));
            }
        }
    }
}
