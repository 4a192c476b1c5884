//! The likely cause of a divergence.

/// What went wrong, and how that is known.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Cause {
    /// A short name, the same for the same mistake.
    pub name: String,
    /// From 0 to 1: 1 where the actual values agree with the mistake to within rounding, and with no other.
    pub confidence: f64,
    /// The evidence, in a sentence with numbers.
    pub evidence: String,
}
