//! Whole-program tests across crates; see the `tests` folder beside this one.
