//! The kernels as text, and what they are compiled for.
//!
//! A [`Module`] is one `.cu` file in one precision. Its text holds everything: `#include` lines are replaced by the files
//! they name, and no header of a toolkit is included, so a compiler needs neither a path nor a toolkit.

use std::fmt;

use crate::device::Precision;

/// A file of kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the variants are the files, each of which opens with what it does")]
pub enum File {
    Gemm,
    Embeddings,
    LayerNorm,
    Activation,
    Conv1d,
    Rows,
    Pooler,
    AttentionPlain,
    PositionScores,
    AttentionTiled,
    AttentionMma,
    AttentionWindow,
    AttentionSlots,
}

impl File {
    /// Every file.
    pub const ALL: [Self; 13] = [
        Self::Gemm,
        Self::Embeddings,
        Self::LayerNorm,
        Self::Activation,
        Self::Conv1d,
        Self::Rows,
        Self::Pooler,
        Self::AttentionPlain,
        Self::PositionScores,
        Self::AttentionTiled,
        Self::AttentionMma,
        Self::AttentionWindow,
        Self::AttentionSlots,
    ];

    /// Its name in `kernels/`.
    pub fn name(self) -> &'static str {
        self.name_and_source().0
    }

    /// Whether it is compiled for one head size at a time.
    pub fn needs_head_size(self) -> bool {
        match self {
            Self::Gemm | Self::Embeddings | Self::LayerNorm | Self::Activation => false,
            Self::Conv1d | Self::Rows | Self::Pooler => false,
            Self::AttentionPlain | Self::PositionScores | Self::AttentionTiled => true,
            Self::AttentionMma | Self::AttentionWindow | Self::AttentionSlots => true,
        }
    }

    /// Whether it is written for a precision: there is no tensor core for `f32`.
    pub fn supports(self, precision: Precision) -> bool {
        !(self.on_tensor_cores() && precision == Precision::F32)
    }

    /// Whether it is written for heads of that size: what goes to tensor cores is copied 16 bytes at a time.
    pub fn takes_heads(self, precision: Precision, head_size: usize) -> bool {
        !self.on_tensor_cores() || (head_size <= 128 && (head_size * precision.bytes()).is_multiple_of(16))
    }

    pub(crate) fn on_tensor_cores(self) -> bool {
        matches!(self, Self::AttentionMma | Self::AttentionWindow | Self::AttentionSlots)
    }

    fn name_and_source(self) -> (&'static str, &'static str) {
        macro_rules! file {
            ($name:literal) => {
                ($name, include_str!(concat!("../kernels/", $name)))
            };
        }
        match self {
            Self::Gemm => file!("gemm.cu"),
            Self::Embeddings => file!("embeddings.cu"),
            Self::LayerNorm => file!("layer_norm.cu"),
            Self::Activation => file!("activation.cu"),
            Self::Conv1d => file!("conv1d.cu"),
            Self::Rows => file!("rows.cu"),
            Self::Pooler => file!("pooler.cu"),
            Self::AttentionPlain => file!("attention_plain.cu"),
            Self::PositionScores => file!("position_scores.cu"),
            Self::AttentionTiled => file!("attention_tiled.cu"),
            Self::AttentionMma => file!("attention_mma.cu"),
            Self::AttentionWindow => file!("attention_window.cu"),
            Self::AttentionSlots => file!("attention_slots.cu"),
        }
    }
}

/// What stands between a kernel and the machine. The emulator of the tests has another.
const DEVICE: &str = include_str!("../kernels/device.cuh");

/// The files that others include.
const HEADERS: [(&str, &str); 6] = [
    ("common.cuh", include_str!("../kernels/common.cuh")),
    ("row.cuh", include_str!("../kernels/row.cuh")),
    ("activation.cuh", include_str!("../kernels/activation.cuh")),
    ("attention.cuh", include_str!("../kernels/attention.cuh")),
    ("attention_mma.cuh", include_str!("../kernels/attention_mma.cuh")),
    ("attention_window.cuh", include_str!("../kernels/attention_window.cuh")),
];

/// A file of kernels, in one precision and, for attention, for one head size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Module {
    /// The file.
    pub file: File,
    /// The precision.
    pub precision: Precision,
    /// D, for the files that ask for it; else 0.
    pub head_size: usize,
}

impl Module {
    /// Every module for heads of 64, the size of every released model: each file in each precision it is made for.
    pub fn all() -> impl Iterator<Item = Self> {
        Self::for_heads(&[64])
    }

    /// Every module for heads of these sizes.
    pub fn for_heads(sizes: &[usize]) -> impl Iterator<Item = Self> {
        let of_file = move |file: File| if file.needs_head_size() { sizes } else { &[0] };
        let files = File::ALL.into_iter().flat_map(move |file| of_file(file).iter().map(move |&size| (file, size)));
        files.flat_map(|(file, head_size)| {
            let serves = move |&precision: &_| file.supports(precision) && file.takes_heads(precision, head_size);
            let precisions = Precision::ALL.into_iter().filter(serves);
            precisions.map(move |precision| Self { file, precision, head_size })
        })
    }

    /// The whole text.
    pub fn text(&self) -> String {
        self.text_with(DEVICE)
    }

    /// The whole text, with another file in the place of `device.cuh`.
    pub fn text_with(&self, device: &str) -> String {
        let mut text = String::new();
        let (name, source) = self.file.name_and_source();
        include(&mut text, &mut Vec::new(), name, source, device);
        text
    }

    /// What is defined before the text, as `NAME=VALUE`.
    pub fn defines(&self) -> Vec<String> {
        let mut defines = vec![format!("PRECISION_{}=1", self.precision.name().to_uppercase())];
        if self.head_size > 0 {
            defines.push(format!("HEAD_SIZE={}", self.head_size));
        }
        defines
    }
}

impl fmt::Display for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} for {}", self.file.name(), self.precision.name())?;
        if self.head_size > 0 { write!(f, " and heads of {}", self.head_size) } else { Ok(()) }
    }
}

/// Appends a file, with every file that it includes, once, in the place of the line that says so. `#line` keeps a
/// compiler's messages true.
fn include(text: &mut String, done: &mut Vec<&'static str>, name: &str, source: &'static str, device: &str) {
    *text += &format!("#line 1 \"{name}\"\n");
    for (at, line) in source.lines().enumerate() {
        let Some(wanted) = line.strip_prefix("#include \"").and_then(|rest| rest.strip_suffix('"')) else {
            *text += line;
            text.push('\n');
            continue;
        };
        if wanted == "device.cuh" {
            if !done.contains(&"device.cuh") {
                done.push("device.cuh");
                *text += &format!("#line 1 \"device.cuh\"\n{device}\n");
            }
        } else {
            let (header, source) =
                HEADERS.iter().find(|(header, _)| *header == wanted).expect("a test includes every file");
            if !done.contains(header) {
                done.push(header);
                include(text, done, header, source, device);
            }
        }
        *text += &format!("#line {} \"{name}\"\n", at + 2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_whole_and_includes_nothing_of_a_toolkit() {
        for file in File::ALL {
            let text = Module { file, precision: Precision::F16, head_size: 0 }.text();
            assert!(!text.contains("#include"), "{}", file.name());
            assert_eq!(text.matches("#line 1 \"device.cuh\"").count(), 1, "{}", file.name());
        }
    }
}
