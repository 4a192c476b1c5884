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
//! How many rows and panels fit into the registers depends on the processor ([`Real::tile_rows`]). The choice is made at run time;
//! what is written here for AVX2 and AVX-512 is the same loop over other vectors. A tile has no more rows than a place of the
//! first-level cache holds lines, eight: rows a multiple of 4 KB apart all lie in one place. So AVX-512 fills its registers with
//! three panels of X at once.

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
    /// Whether what lies behind these rows of A is wanted soon: tiles then fetch the rows that follow theirs.
    pub fetches: bool,
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
                fetches: self.fetches && panel == 0,
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
    fetches: bool,
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
        let ahead = if part.fetches { ROWS.wrapping_mul(tile.a_row) } else { 0 };
        let mut x = part.x;
        // A cache line of each row at a time, the steps of half a line written out: counting each would be a sixth of the instructions.
        let lines = tile.depth / LANES;
        for line in 0..lines {
            let at = line.wrapping_mul(LANES);
            if ahead > 0 {
                for r in 0..ROWS {
                    prefetch(rows[r].wrapping_add(at).wrapping_add(ahead));
                }
            }
            for half in 0..2_usize {
                let at = at.wrapping_add(half.wrapping_mul(LANES / 2));
                for i in 0..LANES / 2 {
                    step(&mut sums, &rows, at.wrapping_add(i), x.wrapping_add(i.wrapping_mul(LANES)), tile.x_panel);
                }
                x = x.wrapping_add(LANES * LANES / 2);
            }
        }
        for at in lines.wrapping_mul(LANES)..tile.depth {
            step(&mut sums, &rows, at, x, tile.x_panel);
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

/// One term of every sum: that of row r stands `at` numbers behind `rows[r]`, those of the panels from `x` on. A function, as a
/// closure might not be compiled for the instructions of its caller.
///
/// # Safety
/// As of [`run`].
#[inline(always)]
#[expect(clippy::needless_range_loop, reason = "counted loops are unrolled into registers")]
unsafe fn step<T: Real, V: Vector<T>, const ROWS: usize, const PANELS: usize>(
    sums: &mut [[V; PANELS]; ROWS],
    rows: &[*const T; ROWS],
    at: usize,
    x: *const T,
    x_panel: usize,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut lanes = [V::zero(); PANELS];
        for p in 0..PANELS {
            lanes[p] = V::load(x.wrapping_add(p.wrapping_mul(x_panel)));
        }
        for r in 0..ROWS {
            let factor = V::repeat(rows[r].wrapping_add(at));
            for p in 0..PANELS {
                sums[r][p] = lanes[p].times_plus(factor, sums[r][p]);
            }
        }
    }
}

/// Into the second-level cache: panels of X pass through the first before these are read.
#[inline(always)]
fn prefetch<T>(at: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch reads nothing that the program sees, and every x86-64 processor has it.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T1 }>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// Runs the tiles of some panels, from row to row of A: of the first number of rows, and of one of the others for what is left.
macro_rules! down {
    ($tile:ident, $c:ident, $number:ty, $vector:ty, $panel:ident, $panels:literal, ($most:literal $($fewer:literal)*)) => {
        for row in (0..$tile.rows).step_by($most) {
            let part = $tile.part(row, $panel, $c);
            match $tile.rows - row {
                $($fewer => run::<$number, $vector, $fewer, $panels>($tile, part),)*
                _ => run::<$number, $vector, $most, $panels>($tile, part),
            }
        }
    };
}

/// Cuts a product into tiles of these rows and panels, each time of the first number of panels that there still are.
macro_rules! cut {
    ($tile:ident, $c:ident, $number:ty, $vector:ty, $rows:tt by $($panels:literal)*) => {{
        let mut panel = 0;
        while panel < $tile.panels {
            let left = $tile.panels - panel;
            $(if left >= $panels {
                down!($tile, $c, $number, $vector, panel, $panels, $rows);
                panel += $panels;
                continue;
            })*
        }
    }};
}

/// The versions of the loop for one number type, and the choice between them; of each the vectors, rows and panels.
macro_rules! tiles {
    ($name:ident, $number:ty, avx2: $avx2:ty, $avx2_rows:tt by $($avx2_panels:literal)*;
     avx512: $avx512:ty, $avx512_rows:tt by $($avx512_panels:literal)*) => {
        pub(crate) mod $name {
            use super::*;

            /// # Safety
            /// The slices and `c` hold what the product says.
            pub(crate) unsafe fn tiles(tile: &Tiles<'_, $number>, c: *mut $number) {
                // SAFETY: the caller's promise; the processor has what its own level is compiled for.
                unsafe { tiles_of(Level::of_processor(), tile, c) }
            }

            /// # Safety
            /// As above, and the processor has the instructions of the level.
            pub(super) unsafe fn tiles_of(level: Level, tile: &Tiles<'_, $number>, c: *mut $number) {
                #[cfg(target_arch = "x86_64")]
                {
                    #[target_feature(enable = "avx512f,avx2,fma")]
                    unsafe fn wide(tile: &Tiles<'_, $number>, c: *mut $number) {
                        // SAFETY: the caller's promise.
                        unsafe { cut!(tile, c, $number, $avx512, $avx512_rows by $($avx512_panels)*) }
                    }
                    #[target_feature(enable = "avx2,fma")]
                    unsafe fn middle(tile: &Tiles<'_, $number>, c: *mut $number) {
                        // SAFETY: the caller's promise.
                        unsafe { cut!(tile, c, $number, $avx2, $avx2_rows by $($avx2_panels)*) }
                    }
                    match level {
                        // SAFETY: the caller's promise.
                        Level::Avx512 => return unsafe { wide(tile, c) },
                        // SAFETY: as above.
                        Level::Avx2 => return unsafe { middle(tile, c) },
                        Level::Portable => {}
                    }
                }
                let _ = level;
                // SAFETY: the caller's promise; these vectors need nothing of the processor.
                unsafe { cut!(tile, c, $number, [$number; LANES], (4 1 2 3) by 1) }
            }

            pub(crate) fn rows() -> usize {
                match Level::of_processor() {
                    Level::Avx512 => first!($avx512_rows),
                    Level::Avx2 => first!($avx2_rows),
                    Level::Portable => 4,
                }
            }
        }
    };
}

/// The most rows of a tile.
macro_rules! first {
    (($first:literal $($others:literal)*)) => {
        $first
    };
}

#[cfg(target_arch = "x86_64")]
tiles! { single, f32, avx2: x86::Avx2Single, (6 1 2 3 4 5) by 1; avx512: x86::Avx512Single, (8 1 2 3 4 5 6 7) by 3 2 1 }
#[cfg(target_arch = "x86_64")]
tiles! { double, f64, avx2: x86::Avx2Double, (3 1 2) by 1; avx512: x86::Avx512Double, (8 1 2 3 4 5 6 7) by 1 }
#[cfg(not(target_arch = "x86_64"))]
tiles! { single, f32, avx2: [f32; LANES], (1) by 1; avx512: [f32; LANES], (1) by 1 }
#[cfg(not(target_arch = "x86_64"))]
tiles! { double, f64, avx2: [f64; LANES], (1) by 1; avx512: [f64; LANES], (1) by 1 }

/// What the processor can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
enum Level {
    Portable,
    #[cfg_attr(not(any(target_arch = "x86_64", test)), expect(dead_code, reason = "only x86-64 has it"))]
    Avx2,
    #[cfg_attr(not(any(target_arch = "x86_64", test)), expect(dead_code, reason = "only x86-64 has it"))]
    Avx512,
}

impl Level {
    fn of_processor() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            // Each of these is a look at a number that the standard library has kept since the first time.
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                return if is_x86_feature_detected!("avx512f") { Self::Avx512 } else { Self::Avx2 };
            }
        }
        Self::Portable
    }
}

#[cfg(test)]
mod tests {
    use deberta_testkit::{oracle, skipped};

    use super::*;

    /// Products of all shapes around those of a tile, C between numbers that must stay, by `compute`.
    fn check<T: Real>(rounding: f64, compute: impl Fn(&Tiles<'_, T>, &mut [T])) {
        let mut rng = oracle::Rng::new(9);
        let mut numbers = |n: usize| -> Vec<T> { rng.vector(n).iter().map(|&v| T::of(v)).collect() };
        for (rows, panels, depth) in (0..=25).flat_map(|r| (0..=7).map(move |p| (r, p, (r * 5 + p * 11) % 40))) {
            let (a_row, x_panel, c_panel) = (depth + 3, depth * LANES + 2, (rows + 1) * LANES);
            let (a, x, start) = (numbers(rows * a_row), numbers(panels * x_panel), numbers(rows));
            let (a, x, start) = (a.as_slice(), x.as_slice(), Some(start.as_slice()));
            let before = numbers(panels * c_panel);
            for (start, accumulates, fetches) in [(start, false, true), (None, true, false), (None, false, true)] {
                let tiles = Tiles {
                    depth,
                    rows,
                    panels,
                    a,
                    a_row,
                    x,
                    x_panel,
                    c_row: LANES,
                    c_panel,
                    start,
                    accumulates,
                    fetches,
                };
                let mut c = before.clone();
                compute(&tiles, &mut c);
                for (at, (found, before)) in c.iter().zip(&before).enumerate() {
                    let (p, r, l) = (at / c_panel, at % c_panel / LANES, at % LANES);
                    let (mut expected, mut terms) = (before.wide(), 0);
                    if r < rows {
                        let begins =
                            start.map_or(0.0, |start| start[r].wide()) + if accumulates { expected } else { 0.0 };
                        let term = |k: usize| a[r * a_row + k].wide() * x[p * x_panel + k * LANES + l].wide();
                        (expected, terms) = (begins + (0..depth).map(term).sum::<f64>(), depth + 2);
                    }
                    let off = (found.wide() - expected).abs();
                    assert!(
                        off <= rounding * terms as f64,
                        "{rows}×{panels}×{depth}: {r}, {p}, {l}: {found} and not {expected}"
                    );
                }
            }
        }
    }

    #[test]
    fn tiles_of_every_level_are_the_sum_over_terms() {
        check::<f32>(f32::EPSILON.into(), |tiles, c| tiles.compute(c));
        check::<f64>(oracle::ROUNDING_F64, |tiles, c| tiles.compute(c));
        let best = Level::of_processor();
        for level in [Level::Portable, Level::Avx2, Level::Avx512] {
            if level > best {
                skipped(&format!("tiles of {level:?}"), &format!("this processor has no more than {best:?}"));
                continue;
            }
            // SAFETY: `Tiles::compute` checked the shapes of the same products above; the processor has the level.
            check::<f32>(f32::EPSILON.into(), |tiles, c| unsafe { single::tiles_of(level, tiles, c.as_mut_ptr()) });
            // SAFETY: as above.
            check::<f64>(oracle::ROUNDING_F64, |tiles, c| unsafe { double::tiles_of(level, tiles, c.as_mut_ptr()) });
        }
    }
}
