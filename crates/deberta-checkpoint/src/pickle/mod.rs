//! A pickle, read as data. Nothing in it is run, imported or looked up.
//!
//! A pickle is a program for a stack machine: its opcodes push values, gather them into containers, name Python objects
//! (`GLOBAL`) and ask for calls (`REDUCE`, `NEWOBJ`, `BUILD` …). Python's machine makes those calls; this one writes them
//! down. Its result is a graph of [`Node`]s in an arena, where a call is a node that holds the name of what would be called
//! and its arguments. Readers of checkpoints then recognise the few shapes that stand for tensors; see `torch_tensors`.
//!
//! - Values refer to each other by index, so shared and even recursive objects are read without recursion.
//! - Strings stay in the file; memory is charged for every node and bounded by the size of the pickle plus a constant.
//! - Every global must stand in one closed list ([`globals`]); any other makes [`Pickle::refused`] name it, with the
//!   arguments it would have been called with.
//!
//! Reference: the opcode descriptions of CPython's `pickletools.py`, protocols 0 to 5.

mod escapes;
pub(crate) mod globals;
mod machine;
mod operands;
#[cfg(test)]
mod tests;
mod value;

pub use globals::RefusedGlobal;
pub(crate) use machine::parse;
pub(crate) use value::{Call, Id, Node, Pickle};

/// Why a pickle could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PickleError {
    /// The bytes end within the pickle.
    #[error("the pickle ends early, at byte {at}; the file is truncated")]
    Truncated {
        /// The offset of the opcode whose operand is missing.
        at: usize,
    },
    /// A byte that is no opcode.
    #[error("byte {at} ({opcode:#04x}) is no pickle opcode; the file is damaged or not a pickle")]
    UnknownOpcode {
        /// Its offset.
        at: usize,
        /// The byte.
        opcode: u8,
    },
    /// An opcode of the format that no checkpoint uses.
    #[error("the pickle uses {name} at byte {at}, which no checkpoint needs")]
    RefusedOpcode {
        /// Its offset.
        at: usize,
        /// Its name in pickletools.
        name: &'static str,
    },
    /// A protocol newer than any that exists.
    #[error("the pickle claims protocol {protocol}; 5 is the newest known")]
    Protocol {
        /// The protocol.
        protocol: u8,
    },
    /// An opcode that does not fit the values on the stack.
    #[error("{opcode} at byte {at} does not fit what is on the stack; the pickle is damaged")]
    Stack {
        /// Its offset.
        at: usize,
        /// Its name in pickletools.
        opcode: &'static str,
    },
    /// An operand that is not what its opcode wants, such as a number that is none.
    #[error("the operand of {opcode} at byte {at} is malformed")]
    Operand {
        /// Its offset.
        at: usize,
        /// Its name in pickletools.
        opcode: &'static str,
    },
    /// The graph exceeds its bounds.
    #[error("reading the pickle would take more memory than its {len} bytes justify")]
    TooLarge {
        /// The length of the pickle.
        len: usize,
    },
}
