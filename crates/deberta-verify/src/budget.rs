//! How far a tensor may be from what is expected: the one table of tolerances, and the reasons.
//!
//! Rounding has a size that can be said beforehand. Write u for the unit roundoff of the coarser of the two dtypes that
//! were *computed* in (2⁻²⁴ for f32, 2⁻⁸ for bf16), and call the **noise** of a tensor ρ = rms(actual − expected) /
//! rms(expected). An operation adds noise of its own and carries on the noise of what it reads:
//!
//! ρ(output) ≤ `own` + `growth` · max ρ(inputs)
//!
//! `own` is `storage`·u for rounding what is written, plus `sums`·2⁻²⁴ for adding up in f32, which is what processors do
//! for bf16 and f16 too. ρ(inputs) is not guessed: it is the noise *observed* in the tensors of the same dump that the
//! operation reads ([`crate::order::inputs`]), each of which was within its own budget. So the budget follows the model
//! at hand (a model with large weights is noisier), and yet an error that arises in one operation cannot hide: its
//! inputs were clean. Where an input was not dumped, its own inputs are asked, and each operation passed on the way
//! counts. Two operations amplify by a factor that is known from the values: softmax turns an absolute error of a score
//! into a relative error of a probability, and a layer norm divides by the standard deviation of what it normalises.
//!
//! Three tests follow, each with its own line in the table:
//!
//! 1. **level**: ρ is within that bound. A mistake that touches every element is seen here, however small its elements.
//! 2. **element**: no element is further off than `element` times the bound, at its own magnitude. A mistake that
//!    touches few elements (one bucket, one head) is seen here.
//! 3. **outlier**: no element stands out of the noise that is actually there. Each error is divided by the noise of its
//!    surroundings: the larger of that of its head, its row and its column, each a robust quantile, so that an element
//!    cannot hide itself. What results is close to normal in a clean dump, so the largest of N can be foretold; where
//!    the third to eighth largest say that the tail is heavier than normal, the forecast is stretched by as much. This
//!    sees a single element at ten times the noise, which no bound that lets a clean dump pass can see. Where a step of a
//!    head can be computed again from what both dumps hold of its inputs, it is looked at without the noise that these bring:
//!    what is left is smaller, and more even. Probabilities have to follow from their scores besides, and to add up, whatever
//!    the noise; and what is computed twice from the same numbers has to be the same twice.
//!
//! For f64 against f64 the noise is far below anything that matters; the budget is [`F64_ABSOLUTE`], flat.
//! Where the caller has the reference's own f32 beside its f64, the budget is [`REFERENCE_MULTIPLE`] times the distance
//! of these two, for each tensor. `--rtol` and `--atol` replace all of it.

/// f64 against f64: |error| ≤ this · max(1, magnitude). Hugging Face's f64 model and this project's differ by 1e-13 at
/// most on models of 24 layers; a wrong epsilon of 1e-12 for 1e-7 is 1e-8. The line is drawn between.
pub const F64_ABSOLUTE: f64 = 1e-10;

/// A formula in f64 meets what was computed by it in f64 to within this, of the size of an element and of the tensor: 4,096
/// roundings.
pub const EXACT: f64 = 1e-12;

/// How many times the reference's own f32-to-f64 distance an f32 tensor may be from the reference's f64. Another order
/// of summation moves the result about as far as the reference moved; 3 leaves room for the tail of that.
pub const REFERENCE_MULTIPLE: f64 = 3.0;

/// Elements may exceed the bound on the rms by this: the tails of clean dumps reach 15 (measured over 2,300 tensors).
pub const ELEMENT: f64 = 30.0;

/// How large the largest of many errors may be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tail {
    /// The outlier test alarms at this chance, per tensor, if errors were normal: a dump has a thousand tensors.
    pub chance: f64,
    /// … times this, because they are only nearly so.
    pub margin: f64,
}

/// Of the noise. Of 2,300 clean tensors of f32 and bf16 models the highest reached 1.06 without the margin; 10 times the rms of
/// a head, in a single element of it, is beyond in one case of two.
pub const OUTLIER_NOISE: Tail = Tail { chance: 1e-9, margin: 1.15 };
/// Of what a step adds to the noise of its inputs, which is close to normal: of 2,232 clean tensors of f32, bf16 and f16 models
/// the highest reached 1.01 without the margin.
pub const OUTLIER_OWN: Tail = Tail { chance: 1e-6, margin: 1.15 };
/// … of that in a product, beside what its rounding follows, which is the result or its partial sums. Of 756 such in f32, bf16 and
/// f16 the highest reached 0.79 without the margin.
pub const OUTLIER_SUMS: Tail = Tail { chance: 1e-6, margin: 1.0 };
/// Of what the readers of a step say it is off by: of 660 clean tensors of f32, bf16 and f16 models the highest reached 1.01
/// without the margin, by itself and together with what the tensor shows (before equal keys were counted once).
pub const OUTLIER_UNREAD: Tail = Tail { chance: 1e-6, margin: 1.15 };
/// … if it is also what the tensor shows of the element, to this part of that or of what would give alarm.
pub const OUTLIER_UNREAD_PART: f64 = 0.5;
/// Of what is computed twice from the same numbers, and differs: see [`TWINS_STORAGE`].
pub const OUTLIER_TWINS: Tail = Tail { chance: 1e-6, margin: 1.15 };
/// What is computed twice from the same numbers may be written one number apart, which is 2 roundings, and half of that more, …
pub const TWINS_STORAGE: f64 = 3.0;
/// … and is off by this many of f32 if it was added up in another way: three times what is typical of a product of 50 to 800
/// features.
pub const TWINS_SUMS: f64 = 4.0;
/// In how many parts a block of a product is added up, to see how large its sums are on the way.
pub const PARTIAL_SUMS: usize = 8;
/// … and how much of the mean of the squares of a tensor's sums is added to the square of each: what is small by chance was larger
/// in between. With the whole mean the largest errors, beside that, are up to 1.4 times what normal ones would be; with this up to 1.2
/// times (products of 48 to 384 features, each in its own order).
pub const PARTIAL_SUMS_FLOOR: f64 = 0.1;
/// The quantile that stands for the noise of a head, row or column, and what it is for a normal distribution of unit
/// variance: a fifth of the elements may be wrong without moving it.
pub const OUTLIER_QUANTILE: f64 = 0.8;
/// Quantiles of n elements are themselves uncertain: the alarm is raised by a factor 1 + this/n.
pub const OUTLIER_FEW: f64 = 24.0;
/// A row or column is as noisy as its own elements say, and as its head is: that counts like so many elements more. Of a column of
/// 7 tokens the quantile is the sixth, which one that is off replaces with the largest of the others.
pub const OUTLIER_LINE: f64 = 8.0;
/// The 0.8 quantile of |x| for a standard normal x.
pub const OUTLIER_QUANTILE_OF_NORMAL: f64 = 1.281_551_565_5;
/// Groups smaller than this have no quantiles worth the name; the outlier test does not look at them.
pub const OUTLIER_LEAST: usize = 24;

/// The logarithm of a probability, less its score, is the same for all keys of a query: to this many roundings of what is
/// written, that of the row's median counted, of the probability and of the row's largest score (somebody may go on with more
/// digits than are dumped), …
pub const SOFTMAX_STORAGE: f64 = 2.0;
/// … and this many of the f32 in which processors add up, times 1 + the distance of the score from the row's highest: what
/// the fast exponentials of GPUs are off by.
pub const SOFTMAX_SUMS: f64 = 8.0;
/// … or, where that is more, to this many times what is typical of the tensor: somebody may dump rounded scores and go on with
/// others.
pub const SOFTMAX_TYPICAL: f64 = 8.0;
/// Rows of fewer keys have no median worth the name.
pub const SOFTMAX_FEWEST: usize = 4;
/// How many times the roundings of a row of probabilities, taken as independent, their sum may be off by. Of 100 clean tensors
/// in f32, bf16 and f16 none reached a third of the whole limit.
pub const SOFTMAX_ROW: f64 = 4.0;

/// Scores at or below this count as masked. Half precision's minimum, −65504, is the least that anyone masks with.
pub const MASKED: f64 = -6.0e4;

/// A mistake has to bring the noise down by this, at least, to be considered.
pub const LEAST_GAIN: f64 = 3.0;
/// … and by this to be believed without reserve. A bucket that is wrong in one distance of a hundred is 1e4 above f32
/// rounding, and one epsilon for another in f32 about 30.
pub const CLEAR_GAIN: f64 = 10.0;
/// Mistakes whose residuals differ by less than this cannot be told apart.
pub const RIVAL: f64 = 3.0;
/// Confidence where one mistake alone meets the values to within rounding.
pub const CERTAIN: f64 = 0.97;
/// Confidence where one mistake alone meets them, less clearly.
pub const LIKELY: f64 = 0.6;
/// Confidence where what meets them has a free parameter: it is seen that a vector or a factor is off, not why.
pub const GUESS: f64 = 0.45;
/// Confidence where several do.
pub const AMBIGUOUS: f64 = 0.4;
/// Two tensors that differ by less than this, relative to their size, hold the same values: coarser than f32 and bf16
/// rounding, finer than any mistake.
pub const SAME: f64 = 1e-2;
/// A layer norm's weight and bias, fitted to the expected dump, must reproduce it this well: bf16's rounding.
pub const FITTED: f64 = 5e-2;
/// The numbers of a model, fitted to the expected dump, must reproduce it this well: bf16's rounding.
pub const FITTED_SETTING: f64 = 5e-2;
/// Numbers that reproduce the expected dump this well, f32's rounding over a few operations, need no rival.
pub const FITTED_EXACTLY: f64 = 1e-5;
/// E\[x²\] is off by this many roundings at most: a sum over a row, as in [`Operation::line`].
pub const SQUARES: f64 = 64.0;
/// … in whole steps: to this share of one, where chance would leave a fifth of the rows.
pub const WHOLE: f64 = 0.1;
/// What other weights give is unrelated to what the model's would where the cosine of the two is below this: that of random
/// weights and a few dozen features reaches 0.2.
pub const UNRELATED: f64 = 0.3;
/// The noise of an operation in half precision, in units of its roundoff.
pub const HALF_STEP: f64 = 4.0;

/// The kind of operation that a tensor is the result of, as far as rounding goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Rows of a table.
    Lookup,
    /// The same values under another name.
    Copy,
    /// A sum of products: a linear layer, a convolution, the terms of the score, probabilities times values.
    Product,
    /// A layer norm, with the residual before it.
    Norm,
    /// A function of each element, or a sum of two or three terms.
    Elementwise,
    /// Softmax.
    Softmax,
    /// Anything else, such as a loss.
    Other,
}

/// A line of the table.
#[derive(Clone, Copy, Debug)]
pub struct Line {
    /// Rounding of what is written, in units of the dtype's u.
    pub storage: f64,
    /// Rounding while adding up, in units of 2⁻²⁴.
    pub sums: f64,
    /// How much of the noise of the inputs may come out.
    pub growth: f64,
}

impl Operation {
    /// What rounding may do in this operation.
    pub const fn line(self) -> Line {
        match self {
            // A table in a narrower dtype than the expected one.
            Self::Lookup => Line { storage: 1.0, sums: 0.0, growth: 1.0 },
            // Of a copy, growth multiplies what its source was allowed, not what was seen there: the same is allowed.
            Self::Copy => Line { storage: 1.0, sums: 0.0, growth: 1.0 },
            // 64: 4096 products added one after another wander by √4096 roundings. Weights rounded to bf16 count as
            // storage. Growth: terms that cancel.
            Self::Product => Line { storage: 4.0, sums: 64.0, growth: 8.0 },
            // Mean, variance and root over up to 4096 elements; rows of small variance amplify more than the average.
            Self::Norm => Line { storage: 4.0, sums: 16.0, growth: 6.0 },
            // The steepest slope of a GELU is 1.13, but its outputs are smaller than its inputs.
            Self::Elementwise => Line { storage: 4.0, sums: 16.0, growth: 6.0 },
            // exp and a sum; the noise of the scores is multiplied by their size before it comes here.
            Self::Softmax => Line { storage: 4.0, sums: 16.0, growth: 6.0 },
            Self::Other => Line { storage: 8.0, sums: 64.0, growth: 16.0 },
        }
    }

    /// The operation whose result bears this canonical name.
    pub fn of(name: &str) -> Self {
        let last = name.rsplit('.').next().unwrap_or(name);
        match last {
            "word_embeddings" | "position_embeddings" | "token_type_embeddings" | "rel_embeddings" => Self::Lookup,
            "query_proj" | "key_proj" | "value_proj" | "pos_key_proj" | "pos_query_proj" | "dense" | "embed_proj"
            | "c2c" | "c2p" | "p2c" | "self" | "classifier" | "qa_outputs" | "decoder" | "lm_head"
            | "lm_predictions" | "logits" | "start_logits" | "end_logits" => Self::Product,
            "conv" if name.ends_with("conv.conv") => Self::Product,
            "LayerNorm" => Self::Norm,
            "scores" | "intermediate_act_fn" | "transform_act_fn" | "pooler" => Self::Elementwise,
            "probs" => Self::Softmax,
            "dropout" | "pos_dropout" | "embeddings" | "conv" | "output" | "attention" | "intermediate"
            | "transform" | "last_hidden_state" | "encoder" | "deberta" => Self::Copy,
            _ if name.starts_with("hidden_states.") || name.starts_with("attentions.") => Self::Copy,
            _ if is_layer(name) => Self::Copy,
            _ => Self::Other,
        }
    }
}

fn is_layer(name: &str) -> bool {
    name.rsplit_once('.').is_some_and(|(head, i)| head.ends_with("layer") && i.parse::<u32>().is_ok())
}

impl Line {
    /// The noise that this operation adds by itself, for a unit roundoff `u`.
    pub fn own(&self, u: f64) -> f64 {
        self.storage * u + self.sums * u.min(2f64.powi(-24))
    }
}

/// The noise to expect in a tensor none of whose ancestors is in the dump, after `depth` layers: a residual stream that
/// takes up the noise of a dozen operations a layer, as the square root of their number.
pub fn unseen(u: f64, depth: usize) -> f64 {
    let operations = 12.0 * (depth as f64 + 1.0);
    Operation::Product.line().own(u) * operations.sqrt() + 4.0 * u * operations.sqrt()
}
