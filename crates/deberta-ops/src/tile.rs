//! The tile: the one inner loop that matrix products are made of.
//!
//! ```text
//! C[r, l] (+)= Σ_k A[r, k] · X[k, l]         r < rows, l < LANES, k < depth
//! ```
//!
//! C stays in registers while k runs. Each step loads one row of X, sixteen numbers that lie side by side, and multiplies it
//! with one number of each row of A, repeated in every lane. So X has its lanes beside one another, and A the terms of a row,
//! which is the order in which PyTorch keeps weights: they are read where they are mapped.
//!
//! How many rows fit into the registers depends on the processor ([`Real::tile_rows`]). The choice is made at run time; what
//! is written here for AVX2 and AVX-512 is the same loop over other vectors. AVX-512 takes two panels of X at once, as
//! otherwise reading A would take longer than multiplying.

use crate::Real;
use crate::vector::Vector;
#[cfg(target_arch = "x86_64")]
use crate::vector::x86;

/// The width of a tile: how many numbers of X lie side by side.
pub const LANES: usize = 16;

/// A product C of A and X, to be computed in tiles.
#[derive(Clone, Copy, Debug)]
pub struct Tiles<'a, T> {
    /// The number of terms of each sum.
    pub depth: usize,
    /// The number of rows of A and C.
    pub rows: usize,
    /// The number of panels of X and C, each sixteen wide.
    pub panels: usize,
    /// A, from its first element; the terms of a row lie beside one another.
    pub a: &'a [T],
    /// From row to row of A.
    pub a_row: usize,
    /// X, from its first element; term after term, sixteen numbers each.
    pub x: &'a [T],
    /// From panel to panel of X.
    pub x_panel: usize,
    /// From row to row of C.
    pub c_row: usize,
    /// From panel to panel of C.
    pub c_panel: usize,
    /// What the sums of each row begin with; zero where there is nothing.
    pub start: Option<&'a [T]>,
    /// Whether C is added to.
    pub accumulates: bool,
    /// How far behind each row of A lies one that is wanted soon; 0 where none is.
    pub ahead: usize,
}

impl<T: Real> Tiles<'_, T> {
    /// Computes C into `c`, in as many tiles as it takes: panel after panel, so that a panel of X stays in the first-level cache
    /// while the rows of A go by.
    ///
    /// # Panics
    /// If a slice is too short for what is said of it.
    pub fn compute(&self, c: &mut [T]) {
        // SAFETY: a slice that is borrowed to be written is nobody else's.
        unsafe { self.compute_at(c.as_mut_ptr(), c.len()) }
    }

    /// The same where others write what lies between the panels of C.
    ///
    /// # Safety
    /// `c` points to `len` numbers, of which nobody else uses those of C meanwhile.
    ///
    /// # Panics
    /// As above.
    pub unsafe fn compute_at(&self, c: *mut T, len: usize) {
        let (rows, panels, depth) = (self.rows, self.panels, self.depth);
        if rows == 0 || panels == 0 {
            return;
        }
        assert!((rows - 1) * self.c_row + (panels - 1) * self.c_panel + LANES <= len, "C holds the product");
        assert!(self.start.is_none_or(|start| start.len() >= rows), "a start for every row");
        if depth > 0 {
            assert!((rows - 1) * self.a_row + depth <= self.a.len(), "A holds every row and term");
            assert!((panels - 1) * self.x_panel + depth * LANES <= self.x.len(), "X holds every term");
        }
        // SAFETY: everything that is read or written lies within the slices, as was just checked.
        unsafe { T::tiles(self, c) }
    }

    /// The part of the product from a row and a panel on, and where it goes.
    ///
    /// # Safety
    /// It lies within the product, and `c` within what [`Tiles::compute`] checked.
    #[inline(always)]
    unsafe fn part(&self, row: usize, panel: usize, c: *mut T) -> Part<T> {
        // SAFETY: the caller's promise; products of what was multiplied in `compute` do not overflow.
        unsafe {
            Part {
                a: self.a.as_ptr().add(row.wrapping_mul(self.a_row)),
                x: self.x.as_ptr().add(panel.wrapping_mul(self.x_panel)),
                c: c.add(row.wrapping_mul(self.c_row).wrapping_add(panel.wrapping_mul(self.c_panel))),
                start: self.start.map(|start| start.as_ptr().add(row)),
                ahead: if panel == 0 { self.ahead } else { 0 },
            }
        }
    }
}

/// Where the tile that is at work begins.
struct Part<T> {
    a: *const T,
    x: *const T,
    c: *mut T,
    start: Option<*const T>,
    ahead: usize,
}

/// The loop.
///
/// # Safety
/// The processor has the instructions of `V`, and the part and as many rows and panels lie within the product.
#[inline(always)]
#[expect(clippy::needless_range_loop, reason = "counted loops are unrolled into registers")]
unsafe fn run<T: Real, V: Vector<T>, const ROWS: usize, const PANELS: usize>(tile: &Tiles<'_, T>, part: Part<T>) {
    // SAFETY: offsets are those that `Tiles::compute` checked; prefetching may touch any address.
    unsafe {
        // Wrapping arithmetic: the offsets are in range, as was checked, and a check in here would cost most of the speed.
        let mut sums = [[V::zero(); PANELS]; ROWS];
        if let Some(start) = part.start {
            for r in 0..ROWS {
                sums[r] = [V::repeat(start.wrapping_add(r)); PANELS];
            }
        }
        let mut rows = [part.a; ROWS];
        for r in 0..ROWS {
            rows[r] = rows[r].wrapping_add(r.wrapping_mul(tile.a_row));
        }
        let mut x = part.x;
        let mut step = |at: usize, x: *const T| {
            let mut lanes = [V::zero(); PANELS];
            for p in 0..PANELS {
                lanes[p] = V::load(x.wrapping_add(p.wrapping_mul(tile.x_panel)));
            }
            for r in 0..ROWS {
                let factor = V::repeat(rows[r].wrapping_add(at));
                for p in 0..PANELS {
                    sums[r][p] = lanes[p].times_plus(factor, sums[r][p]);
                }
            }
        };
        // A cache line of each row at a time, the steps of half a line written out: counting each would be a sixth of the instructions.
        let lines = tile.depth / LANES;
        for line in 0..lines {
            let at = line.wrapping_mul(LANES);
            if part.ahead > 0 {
                for r in 0..ROWS {
                    prefetch(rows[r].wrapping_add(at).wrapping_add(part.ahead));
                }
            }
            for half in 0..2_usize {
                let at = at.wrapping_add(half.wrapping_mul(LANES / 2));
                for i in 0..LANES / 2 {
                    step(at.wrapping_add(i), x.wrapping_add(i.wrapping_mul(LANES)));
                }
                x = x.wrapping_add(LANES * LANES / 2);
            }
        }
        for at in lines.wrapping_mul(LANES)..tile.depth {
            step(at, x);
            x = x.wrapping_add(LANES);
        }
        for (r, sums) in sums.into_iter().enumerate() {
            for (p, sum) in sums.into_iter().enumerate() {
                let to = part.c.wrapping_add(r.wrapping_mul(tile.c_row)).wrapping_add(p.wrapping_mul(tile.c_panel));
                (if tile.accumulates { sum.plus(V::load(to)) } else { sum }).store(to);
            }
        }
    }
}

#[inline(always)]
fn prefetch<T>(at: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch reads nothing that the program sees, and every x86-64 processor has it.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// Calls `run` with as many rows as are left, up to the first number.
macro_rules! by_rows {
    ($left:expr, $tile:ident, $part:ident, $number:ty, $vector:ty, $panels:literal, $most:literal $($fewer:literal)*) => {
        match $left {
            $($fewer => run::<$number, $vector, $fewer, $panels>($tile, $part),)*
            _ => run::<$number, $vector, $most, $panels>($tile, $part),
        }
    };
}

/// Cuts a product into tiles of the given size and runs each; the last rows and the last panel make smaller ones.
macro_rules! cut {
    ($tile:ident, $c:ident, $number:ty, $vector:ty, panels: $panels:literal, rows: $most:literal $($fewer:literal)*) => {{
        let mut panel = 0;
        while panel < $tile.panels {
            let panels = if $tile.panels - panel < $panels { 1 } else { $panels };
            let mut row = 0;
            while row < $tile.rows {
                let (part, left) = ($tile.part(row, panel, $c), $tile.rows - row);
                if panels == $panels {
                    by_rows!(left, $tile, part, $number, $vector, $panels, $most $($fewer)*);
                } else {
                    by_rows!(left, $tile, part, $number, $vector, 1, $most $($fewer)*);
                }
                row += $most;
            }
            panel += panels;
        }
    }};
}

/// The versions of the loop for one number type, and the choice between them.
macro_rules! tiles {
    ($name:ident, $number:ty, avx2: $avx2:ty, $avx2_rows:literal $($avx2_fewer:literal)*;
     avx512: $avx512:ty, $avx512_panels:literal) => {
        pub(crate) mod $name {
            use super::*;

            /// # Safety
            /// The slices and `c` hold what the product says.
            pub(crate) unsafe fn tiles(tile: &Tiles<'_, $number>, c: *mut $number) {
                #[cfg(target_arch = "x86_64")]
                {
                    #[target_feature(enable = "avx512f,avx2,fma")]
                    unsafe fn wide(tile: &Tiles<'_, $number>, c: *mut $number) {
                        // SAFETY: the caller's promise.
                        unsafe {
                            cut!(tile, c, $number, $avx512, panels: $avx512_panels, rows: 12 1 2 3 4 5 6 7 8 9 10 11)
                        }
                    }
                    #[target_feature(enable = "avx2,fma")]
                    unsafe fn middle(tile: &Tiles<'_, $number>, c: *mut $number) {
                        // SAFETY: the caller's promise.
                        unsafe { cut!(tile, c, $number, $avx2, panels: 1, rows: $avx2_rows $($avx2_fewer)*) }
                    }
                    match level() {
                        // SAFETY: the caller's promise; the processor has what the version is compiled for.
                        Level::Avx512 => return unsafe { wide(tile, c) },
                        // SAFETY: as above.
                        Level::Avx2 => return unsafe { middle(tile, c) },
                        Level::Portable => {}
                    }
                }
                // SAFETY: the caller's promise; these vectors need nothing of the processor.
                unsafe { cut!(tile, c, $number, [$number; LANES], panels: 1, rows: 4 1 2 3) }
            }

            pub(crate) fn rows() -> usize {
                match level() {
                    Level::Avx512 => 12,
                    Level::Avx2 => $avx2_rows,
                    Level::Portable => 4,
                }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
tiles! { single, f32, avx2: x86::Avx2Single, 6 1 2 3 4 5; avx512: x86::Avx512Single, 2 }
#[cfg(target_arch = "x86_64")]
tiles! { double, f64, avx2: x86::Avx2Double, 3 1 2; avx512: x86::Avx512Double, 1 }
#[cfg(not(target_arch = "x86_64"))]
tiles! { single, f32, avx2: [f32; LANES], 1; avx512: [f32; LANES], 1 }
#[cfg(not(target_arch = "x86_64"))]
tiles! { double, f64, avx2: [f64; LANES], 1; avx512: [f64; LANES], 1 }

/// What the processor can do.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "only x86-64 has it"))]
    Avx512,
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "only x86-64 has it"))]
    Avx2,
    Portable,
}

fn level() -> Level {
    #[cfg(target_arch = "x86_64")]
    {
        // Each of these is a look at a number that the standard library has kept since the first time.
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            return if is_x86_feature_detected!("avx512f") { Level::Avx512 } else { Level::Avx2 };
        }
    }
    Level::Portable
}
