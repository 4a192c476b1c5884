//! From the names of a checkpoint to the parameters of the schema.
//!
//! A name is first made canonical (wrapping prefixes off, TensorFlow's scopes to dots), then looked up in the rules of its
//! family (`rules`); a rule says which parameter it becomes and how its elements are rearranged. Then every parameter of
//! the schema takes its source, and what is missing, wrongly shaped or left over is listed, all at once.

mod canonical;
mod fold;
mod names;
mod resolve;
mod rules;

pub use canonical::one_name;
pub use fold::fold;
pub use resolve::{Leftover, Mapping, MappingProblems, Reason, Resolved, Unmet, map_parameters, map_part, resolve};
pub use rules::{Family, Transform};

pub(crate) use canonical::own_name;
pub(crate) use names::{Names, parts};
pub(crate) use rules::{other_lm_head, to_microsoft};
