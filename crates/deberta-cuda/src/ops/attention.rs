//! Disentangled attention, by one of the kernels of the ladder (`kernels/attention.cuh` has the equation).
//!
//! | rung | file | precisions | heads of | masks, probabilities |
//! |---|---|---|---|---|
//! | `plain` | `attention_plain.cu` | all, in `f32` arithmetic | any size | both |
//! | `tiled` | `attention_tiled.cu` | all, in `f32` arithmetic | any size that fits | masks |
//! | `mma` | `attention_mma.cu` | `tf32`, `f16`, `bf16` | a multiple of 16 bytes, to 128 | neither |
//! | `window` | `attention_window.cu` | the same | the same | neither |
//! | `slots` | `attention_slots.cu` | the same | the same | neither |

use crate::device::{Arg, Array, Device, Launch, Matrix, Precision};
use crate::error::CudaError;
use crate::ops::{Ops, array, assert_shape, blocks, int, pointer, pointer_or_null};
use crate::source::{File, Module};

/// A kernel of the ladder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rung {
    /// One equation a loop.
    Plain,
    /// Tiles in shared memory, online softmax.
    Tiled,
    /// Tensor cores and asynchronous copies.
    Mma,
    /// The distances of a tile as a window in shared memory.
    Window,
    /// Tiles of a single slot told apart.
    Slots,
}

/// The relative side of an attention.
#[derive(Clone, Copy, Debug)]
pub struct Slots<'m> {
    /// PosK, [R, H·D], where c2p is scored.
    pub keys: Option<Matrix<'m>>,
    /// PosQ, [R, H·D], where p2c is scored.
    pub queries: Option<Matrix<'m>>,
    /// The row of distance x at index x + `max_length` − 1, \[2·`max_length` − 1\].
    pub slots: Array<'m, i32>,
    /// [`runs`] of `slots`.
    pub runs: Array<'m, i32>,
    /// [`longest_run`] of `runs`.
    pub longest_run: usize,
}

/// Which key each query may attend to: for sequence b of length L, [L, L] flags from `starts[b]` on.
#[derive(Clone, Copy, Debug)]
pub struct Visible<'m> {
    /// The flags of all sequences.
    pub visible: Array<'m, u8>,
    /// \[B\]
    pub starts: Array<'m, i64>,
    /// Whether a query that sees nothing is uniform over the keys of its sequence (`hf-5`), and not zero.
    pub uniform: bool,
}

/// What is attended to. Matrices may be column ranges of wider ones.
#[derive(Clone, Copy, Debug)]
pub struct Attention<'m> {
    /// [N, H·D]
    pub query: Matrix<'m>,
    /// [N, H·D]
    pub key: Matrix<'m>,
    /// [N, H·D]
    pub value: Matrix<'m>,
    /// Absent without relative attention.
    pub positions: Option<Slots<'m>>,
    /// Where each sequence begins, and the end, \[B + 1\].
    pub cu_seqlens: Array<'m, i32>,
    /// No sequence is longer.
    pub max_length: usize,
    /// H
    pub heads: usize,
    /// D
    pub head_size: usize,
    /// s, by which scores are divided.
    pub scale: f32,
    /// Absent: every token sees every token of its sequence.
    pub mask: Option<Visible<'m>>,
}

/// For each entry the index of the last in the row of equal entries that it begins or continues: entries i … j are
/// equal where `runs[i]` ≥ j.
pub fn runs(slots: &[i32]) -> Vec<i32> {
    let mut runs = vec![0; slots.len()];
    for i in (0..slots.len()).rev() {
        runs[i] = match slots.get(i + 1) {
            Some(&next) if next == slots[i] => runs[i + 1],
            _ => i32::try_from(i).expect("fewer distances than two thousand million"),
        };
    }
    runs
}

/// How many neighbouring entries are equal at most.
pub fn longest_run(runs: &[i32]) -> usize {
    runs.iter().zip(0..).map(|(&last, first)| (last - first + 1) as usize).max().unwrap_or(0)
}

impl Rung {
    /// Every rung, in the order of the ladder.
    pub const ALL: [Self; 5] = [Self::Plain, Self::Tiled, Self::Mma, Self::Window, Self::Slots];

    /// The name by which it is chosen.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Tiled => "tiled",
            Self::Mma => "mma",
            Self::Window => "window",
            Self::Slots => "slots",
        }
    }

    /// The rung of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|r| r.name() == name)
    }

    /// The file it stands in.
    pub fn file(self) -> File {
        match self {
            Self::Plain => File::AttentionPlain,
            Self::Tiled => File::AttentionTiled,
            Self::Mma => File::AttentionMma,
            Self::Window => File::AttentionWindow,
            Self::Slots => File::AttentionSlots,
        }
    }

    /// The best rung that does what is asked, on a device with `limit` bytes of shared memory a block. Where no row of the position
    /// tables serves all distances of a whole tile, `slots` has nothing to tell apart, and costs more than it gains.
    pub fn best(attention: &Attention<'_>, precision: Precision, probabilities: bool, limit: usize) -> Self {
        let single = attention.positions.is_some_and(|positions| positions.longest_run >= 2 * TILE_Q - 1);
        let fits = |rung: &Self| {
            (single || *rung != Self::Slots) && rung.check(attention, precision, probabilities, limit).is_ok()
        };
        Self::ALL.into_iter().rev().find(fits).unwrap_or(Self::Plain)
    }

    /// Whether the rung does what is asked.
    ///
    /// # Errors
    /// [`CudaError::Unsupported`], which says what it lacks.
    pub fn check(
        self,
        attention: &Attention<'_>,
        precision: Precision,
        probabilities: bool,
        limit: usize,
    ) -> Result<(), CudaError> {
        let lacks = |reason: String| Err(CudaError::Unsupported { rung: self.name(), reason });
        if probabilities && self != Self::Plain {
            return lacks("probabilities are returned by `plain` alone".to_owned());
        }
        if !self.file().supports(precision) {
            return lacks(format!("it is made for tensor cores, which do not multiply in {}", precision.name()));
        }
        if self.file().on_tensor_cores() {
            if attention.mask.is_some() {
                return lacks("masks are taken by `plain` and `tiled` alone".to_owned());
            }
            let operands = [Some(attention.query), Some(attention.key), Some(attention.value)];
            let tables = attention.positions.map_or([None; 2], |p| [p.keys, p.queries]);
            let bytes = precision.bytes();
            let aligned = |m: &Matrix<'_>| m.address().is_multiple_of(16) && (m.stride() * bytes).is_multiple_of(16);
            let takes = self.file().takes_heads(precision, attention.head_size);
            if !takes || !operands.iter().chain(&tables).flatten().all(aligned) {
                return lacks(format!(
                    "it copies 16 bytes at a time, so heads (of {} numbers in {}) and rows must begin at multiples of 16 \
                     bytes, and heads be of 128 at most",
                    attention.head_size,
                    precision.name()
                ));
            }
        }
        let needed = self.shared_bytes(precision, attention.head_size, attention.max_length);
        if needed > limit {
            return lacks(format!(
                "for heads of {} and sequences of {} it needs {needed} bytes of shared memory, and a block has {limit}",
                attention.head_size, attention.max_length
            ));
        }
        Ok(())
    }

    /// Floats that [`Ops::attention`] needs beside its operands.
    pub fn workspace(self, attention: &Attention<'_>) -> usize {
        match (self, &attention.positions) {
            (Self::Plain | Self::Window | Self::Slots, _) | (_, None) => 0,
            (Self::Tiled | Self::Mma, Some(slots)) => {
                let rows = attention.query.rows() * attention.heads;
                [slots.keys, slots.queries].iter().flatten().map(|table| rows * table.rows()).sum()
            }
        }
    }

    /// The size of the kernel's `Shared`.
    fn shared_bytes(self, precision: Precision, head_size: usize, max_length: usize) -> usize {
        match self {
            Self::Plain => 4 * (max_length + THREADS as usize / 32),
            Self::Tiled => 4 * ((TILE_Q + 2 * TILED_K) * (head_size.next_multiple_of(4) + 4) + TILE_Q * (TILED_K + 4)),
            Self::Mma => 2 * tile_bytes(precision, head_size),
            // Keys, values, and two windows of twice as many rows; the bands.
            Self::Window | Self::Slots => 6 * tile_bytes(precision, head_size) + 4 * TILE_Q * 72,
        }
    }

    /// Queries a block.
    fn queries(self) -> usize {
        match self {
            Self::Plain => 1,
            Self::Tiled | Self::Mma | Self::Window | Self::Slots => TILE_Q,
        }
    }
}

/// The threads of a block, in every rung.
const THREADS: u32 = 128;
/// Queries a block, in every rung but the first (`TILE_Q`).
const TILE_Q: usize = 64;
/// Keys at a time in rung 2 (`TILE_K`).
const TILED_K: usize = 32;
/// States and position rows a block in `position_scores.cu` (`POSITION_TILE`).
const POSITION_TILE: usize = 32;

/// 64 rows of a head as the tensor cores' kernels hold them (`Tile` in `attention_mma.cuh`).
fn tile_bytes(precision: Precision, head_size: usize) -> usize {
    let chunk = 16 / precision.bytes();
    TILE_Q * (head_size.next_multiple_of(2 * chunk) + chunk) * precision.bytes()
}

impl<D: Device> Ops<'_, D> {
    /// out_i = Σ_j softmax(score_i)_j · V_j for every head of every sequence.
    ///
    /// # Shapes
    /// `out` [N, H·D]; `workspace` at least [`Rung::workspace`]; `probabilities` [B·H·`max_length`, `max_length`].
    ///
    /// # Errors
    /// [`CudaError::Unsupported`] where the rung does not do what is asked; else see [`CudaError`].
    pub fn attention(
        &self,
        out: &Matrix<'_>,
        attention: &Attention<'_>,
        rung: Rung,
        workspace: Option<&Array<'_, f32>>,
        probabilities: Option<&Matrix<'_>>,
    ) -> Result<(), CudaError> {
        let Attention { heads, head_size, max_length, .. } = *attention;
        let (rows, sequences) = (attention.query.rows(), attention.cu_seqlens.len() - 1);
        for (name, matrix) in
            [("out", out), ("query", &attention.query), ("key", &attention.key), ("value", &attention.value)]
        {
            assert_shape(name, matrix, rows, heads * head_size);
        }
        rung.check(attention, self.precision, probabilities.is_some(), self.device.shared_memory_limit())?;
        let mut arguments = self.common_arguments(out, attention);
        if matches!(rung, Rung::Plain | Rung::Tiled) {
            arguments.extend(mask_arguments(attention, sequences));
        }
        match rung {
            Rung::Plain => {
                if let Some(probabilities) = probabilities {
                    assert_shape("probabilities", probabilities, sequences * heads * max_length, max_length);
                    assert_eq!(probabilities.stride(), max_length, "the stride of probabilities");
                }
                arguments.push(pointer_or_null(probabilities));
            }
            Rung::Tiled | Rung::Mma => arguments.extend(self.position_scores(attention, rung, workspace)?),
            Rung::Window | Rung::Slots => {}
        }
        if rows == 0 {
            return Ok(());
        }
        self.device.launch(&Launch {
            module: Module { file: rung.file(), precision: self.precision, head_size },
            kernel: match rung {
                Rung::Plain => "attention_plain",
                Rung::Tiled => "attention_tiled",
                Rung::Mma => "attention_mma",
                Rung::Window => "attention_window",
                Rung::Slots => "attention_slots",
            },
            grid: [blocks(max_length.div_ceil(rung.queries())), blocks(heads), blocks(sequences)],
            block: [THREADS, 1, 1],
            shared_bytes: rung.shared_bytes(self.precision, head_size, max_length),
            arguments: &arguments,
        })
    }

    /// `ATTENTION_PARAMETERS` of `attention.cuh`.
    fn common_arguments(&self, out: &Matrix<'_>, attention: &Attention<'_>) -> Vec<Arg> {
        let positions = attention.positions.as_ref();
        let (keys, queries) = (positions.and_then(|p| p.keys.as_ref()), positions.and_then(|p| p.queries.as_ref()));
        for table in [keys, queries].into_iter().flatten() {
            assert_eq!(table.columns(), attention.heads * attention.head_size, "the width of position rows");
        }
        let distances = 2 * attention.max_length - 1;
        vec![
            pointer(out),
            pointer(&attention.query),
            pointer(&attention.key),
            pointer(&attention.value),
            pointer_or_null(keys),
            pointer_or_null(queries),
            positions.map_or(Arg::Pointer(0), |p| array("slots", &p.slots, distances)),
            positions.map_or(Arg::Pointer(0), |p| array("runs", &p.runs, distances)),
            Arg::Pointer(attention.cu_seqlens.address()),
            int(out.stride()),
            int(attention.query.stride()),
            int(attention.key.stride()),
            int(attention.value.stride()),
            int(keys.map_or(0, Matrix::stride)),
            int(queries.map_or(0, Matrix::stride)),
            int(attention.max_length),
            Arg::Float(attention.scale),
        ]
    }

    /// Computes the products that rungs 2 and 3 gather from, and returns `c2p`, `p2c` and the number of position rows.
    fn position_scores(
        &self,
        attention: &Attention<'_>,
        rung: Rung,
        workspace: Option<&Array<'_, f32>>,
    ) -> Result<[Arg; 3], CudaError> {
        let Attention { heads, head_size, .. } = *attention;
        let needed = rung.workspace(attention);
        assert!(workspace.map_or(0, |w| w.len()) >= needed, "the workspace holds fewer than {needed} floats");
        let mut scores = [Arg::Pointer(0); 2];
        let mut table_rows = 0;
        let (Some(positions), Some(mut at)) = (&attention.positions, workspace.map(|w| w.address())) else {
            return Ok([scores[0], scores[1], int(0)]);
        };
        let terms = [(&attention.query, &positions.keys), (&attention.key, &positions.queries)];
        for (score, (states, table)) in scores.iter_mut().zip(terms) {
            let Some(table) = table else { continue };
            assert!(table_rows == 0 || table_rows == table.rows(), "both terms have as many position rows");
            table_rows = table.rows();
            *score = Arg::Pointer(at);
            at += (4 * states.rows() * heads * table_rows) as u64;
            if states.rows() == 0 {
                continue;
            }
            self.device.launch(&Launch {
                module: Module { file: File::PositionScores, precision: self.precision, head_size },
                kernel: "position_scores",
                grid: [
                    blocks(states.rows().div_ceil(POSITION_TILE)),
                    blocks(table_rows.div_ceil(POSITION_TILE)),
                    blocks(heads),
                ],
                block: [THREADS, 1, 1],
                shared_bytes: 2 * 4 * POSITION_TILE * (head_size + 1),
                arguments: &[
                    *score,
                    pointer(states),
                    pointer(table),
                    int(states.rows()),
                    int(table_rows),
                    int(states.stride()),
                    int(table.stride()),
                ],
            })?;
        }
        Ok([scores[0], scores[1], int(table_rows)])
    }
}

fn mask_arguments(attention: &Attention<'_>, sequences: usize) -> [Arg; 3] {
    match &attention.mask {
        None => [Arg::Pointer(0), Arg::Pointer(0), Arg::Int(0)],
        Some(mask) => [
            Arg::Pointer(mask.visible.address()),
            array("the starts of the mask", &mask.starts, sequences),
            Arg::Int(i32::from(mask.uniform)),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_end_where_the_row_changes() {
        assert_eq!(runs(&[0, 0, 0, 1, 2, 2, 0]), [2, 2, 2, 3, 5, 5, 6]);
        assert_eq!(runs(&[]), [0; 0]);
        assert_eq!(longest_run(&[2, 2, 2, 3, 5, 5, 6]), 3);
        assert_eq!(longest_run(&[]), 0);
    }
}
