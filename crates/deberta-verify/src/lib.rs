//! Verification: compares the intermediates of two implementations and names the operation that is wrong.
