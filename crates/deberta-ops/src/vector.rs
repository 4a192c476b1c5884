//! Sixteen numbers in registers: what the loop of a tile ([`crate::Tiles`]) is written over.
//!
//! An array of numbers serves on every processor; for AVX2 and AVX-512 there are registers of their own.

use crate::{LANES, Real};

/// Sixteen numbers in registers.
pub(crate) trait Vector<T>: Copy {
    /// # Safety
    /// The processor has the instructions; `from` points to [`LANES`] numbers.
    unsafe fn load(from: *const T) -> Self;
    /// # Safety
    /// As above, for one number.
    unsafe fn repeat(from: *const T) -> Self;
    /// # Safety
    /// The processor has the instructions; `to` has room for [`LANES`] numbers.
    unsafe fn store(self, to: *mut T);
    /// self · b + c
    ///
    /// # Safety
    /// The processor has the instructions.
    unsafe fn times_plus(self, b: Self, c: Self) -> Self;
    /// # Safety
    /// The processor has the instructions.
    unsafe fn plus(self, b: Self) -> Self;
    /// # Safety
    /// The processor has the instructions.
    unsafe fn zero() -> Self;
}

impl<T: Real> Vector<T> for [T; LANES] {
    #[inline(always)]
    unsafe fn load(from: *const T) -> Self {
        // SAFETY: the caller's promise; an array is as aligned as its elements.
        unsafe { *from.cast() }
    }

    #[inline(always)]
    unsafe fn repeat(from: *const T) -> Self {
        // SAFETY: the caller's promise.
        [unsafe { *from }; LANES]
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut T) {
        // SAFETY: the caller's promise.
        unsafe { *to.cast() = self }
    }

    #[inline(always)]
    unsafe fn times_plus(self, b: Self, c: Self) -> Self {
        std::array::from_fn(|l| self[l] * b[l] + c[l])
    }

    #[inline(always)]
    unsafe fn plus(self, b: Self) -> Self {
        std::array::from_fn(|l| self[l] + b[l])
    }

    #[inline(always)]
    unsafe fn zero() -> Self {
        [T::zero(); LANES]
    }
}

#[cfg(target_arch = "x86_64")]
pub(crate) mod x86 {
    use std::arch::x86_64::*;

    use super::Vector;

    /// Sixteen numbers in as many registers as they fill. Loops and not closures, so that the instructions end up in the
    /// function that is compiled for them.
    macro_rules! registers {
        ($name:ident, $number:ty, $register:ty, $width:literal, $load:ident, $repeat:ident, $store:ident, $fma:ident,
         $add:ident, $zero:ident) => {
            #[derive(Clone, Copy)]
            pub(crate) struct $name([$register; crate::LANES / $width]);

            #[allow(clippy::undocumented_unsafe_blocks, reason = "the promises are those of the trait, word for word")]
            impl Vector<$number> for $name {
                #[inline(always)]
                unsafe fn load(from: *const $number) -> Self {
                    let mut v = unsafe { Self::zero() };
                    for (i, part) in v.0.iter_mut().enumerate() {
                        *part = unsafe { $load(from.add(i * $width)) };
                    }
                    v
                }
                #[inline(always)]
                unsafe fn repeat(from: *const $number) -> Self {
                    Self([unsafe { $repeat(*from) }; crate::LANES / $width])
                }
                #[inline(always)]
                unsafe fn store(self, to: *mut $number) {
                    for (i, part) in self.0.into_iter().enumerate() {
                        unsafe { $store(to.add(i * $width), part) };
                    }
                }
                #[inline(always)]
                unsafe fn times_plus(mut self, b: Self, c: Self) -> Self {
                    for (a, (b, c)) in self.0.iter_mut().zip(b.0.into_iter().zip(c.0)) {
                        *a = unsafe { $fma(*a, b, c) };
                    }
                    self
                }
                #[inline(always)]
                unsafe fn plus(mut self, b: Self) -> Self {
                    for (a, b) in self.0.iter_mut().zip(b.0) {
                        *a = unsafe { $add(*a, b) };
                    }
                    self
                }
                #[inline(always)]
                unsafe fn zero() -> Self {
                    Self([unsafe { $zero() }; crate::LANES / $width])
                }
            }
        };
    }

    registers! { Avx2Single, f32, __m256, 8, _mm256_loadu_ps, _mm256_set1_ps, _mm256_storeu_ps, _mm256_fmadd_ps,
    _mm256_add_ps, _mm256_setzero_ps }
    registers! { Avx2Double, f64, __m256d, 4, _mm256_loadu_pd, _mm256_set1_pd, _mm256_storeu_pd, _mm256_fmadd_pd,
    _mm256_add_pd, _mm256_setzero_pd }
    registers! { Avx512Single, f32, __m512, 16, _mm512_loadu_ps, _mm512_set1_ps, _mm512_storeu_ps, _mm512_fmadd_ps,
    _mm512_add_ps, _mm512_setzero_ps }
    registers! { Avx512Double, f64, __m512d, 8, _mm512_loadu_pd, _mm512_set1_pd, _mm512_storeu_pd, _mm512_fmadd_pd,
    _mm512_add_pd, _mm512_setzero_pd }
}
