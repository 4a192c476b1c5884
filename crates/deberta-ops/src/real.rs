//! The two number types of the implementation.

use ndarray::NdFloat;

use crate::buffers::Drawer;
use crate::look_up::{self, At, LookUp};
use crate::{Activation, Lanes, Tiles, tile, transpose, vectorized};

/// `f32` or `f64`: what the architecture is written over.
pub trait Real: NdFloat + std::iter::Sum + Default {
    /// The type's name as safetensors files and command lines spell it.
    const NAME: &'static str;

    /// The nearest value of this type.
    fn of(value: f64) -> Self;

    /// The value, widened without loss.
    fn wide(self) -> f64;

    /// Replaces each x by eˣ, right to a unit in the last place.
    fn exp_slice(values: &mut [Self]);

    /// Replaces each x by x/2 · (1 + erf(x/√2)), right to a unit in the last place of x.
    fn gelu_slice(values: &mut [Self]);

    /// The block with rows and columns exchanged.
    fn turned(block: [[Self; 4]; 4]) -> [[Self; 4]; 4];

    /// Adds terms that are looked up by distance; [`LookUp::add`] is the safe way to it.
    fn add_looked_up(look_up: &LookUp, scores: &mut [Lanes<Self>], terms: &[Self], at: At);

    /// How many rows a tile has on this processor.
    fn tile_rows() -> usize;

    /// Computes a product in tiles; [`Tiles::compute`] is the safe way to it.
    ///
    /// # Safety
    /// The slices and `c` hold what the product says.
    unsafe fn tiles(tiles: &Tiles<'_, Self>, c: *mut Self);

    /// Where arrays of this type lie ready.
    fn drawer() -> &'static Drawer<Self>;
}

impl Real for f32 {
    const NAME: &'static str = "f32";

    #[expect(clippy::cast_possible_truncation, reason = "rounding to nearest is what this function is for")]
    fn of(value: f64) -> Self {
        value as f32
    }

    fn wide(self) -> f64 {
        self.into()
    }

    fn exp_slice(values: &mut [Self]) {
        vectorized::exp(values);
    }

    fn gelu_slice(values: &mut [Self]) {
        vectorized::gelu(values);
    }

    #[inline(always)]
    fn turned(block: [[Self; 4]; 4]) -> [[Self; 4]; 4] {
        transpose::turned_single(block)
    }

    fn add_looked_up(look_up: &LookUp, scores: &mut [Lanes<Self>], terms: &[Self], at: At) {
        look_up::add_single(look_up, scores, terms, at);
    }

    fn tile_rows() -> usize {
        tile::single::rows()
    }

    unsafe fn tiles(tiles: &Tiles<'_, Self>, c: *mut Self) {
        // SAFETY: the caller's promise.
        unsafe { tile::single::tiles(tiles, c) }
    }

    fn drawer() -> &'static Drawer<Self> {
        static DRAWER: Drawer<f32> = Drawer::empty();
        &DRAWER
    }
}

impl Real for f64 {
    const NAME: &'static str = "f64";

    fn of(value: f64) -> Self {
        value
    }

    fn wide(self) -> f64 {
        self
    }

    fn exp_slice(values: &mut [Self]) {
        values.iter_mut().for_each(|v| *v = v.exp());
    }

    fn gelu_slice(values: &mut [Self]) {
        values.iter_mut().for_each(|v| *v = Activation::Gelu.apply(*v));
    }

    fn turned(block: [[Self; 4]; 4]) -> [[Self; 4]; 4] {
        transpose::turned(block)
    }

    fn add_looked_up(look_up: &LookUp, scores: &mut [Lanes<Self>], terms: &[Self], at: At) {
        look_up::add_one_by_one(look_up, scores, terms, at);
    }

    fn tile_rows() -> usize {
        tile::double::rows()
    }

    unsafe fn tiles(tiles: &Tiles<'_, Self>, c: *mut Self) {
        // SAFETY: the caller's promise.
        unsafe { tile::double::tiles(tiles, c) }
    }

    fn drawer() -> &'static Drawer<Self> {
        static DRAWER: Drawer<f64> = Drawer::empty();
        &DRAWER
    }
}
