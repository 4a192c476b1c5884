//! What stands behind an opcode: numbers, lines, strings, each with its bounds checked.

use super::PickleError;
use super::machine::{LINE, Machine, Step};
use super::value::{Node, Text};

impl<'a> Machine<'a> {
    /// Names the opcode at work; returns the machine for its operand to be read.
    pub(super) fn named(&mut self, name: &'static str) -> &mut Self {
        self.op.name = name;
        self
    }

    pub(super) fn take(&mut self, n: usize) -> Step<&'a [u8]> {
        let rest = &self.pickle.bytes[self.at..];
        let taken = rest.get(..n).ok_or(PickleError::Truncated { at: self.op.at })?;
        self.at += n;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Step<[u8; N]> {
        let taken = self.take(N)?;
        <[u8; N]>::try_from(taken).map_err(|_| self.operand())
    }

    /// A string preceded by its length in `N` bytes.
    pub(super) fn sized<const N: usize>(&mut self) -> Step<Text> {
        let mut len = [0; 8];
        len[..N].copy_from_slice(self.take(N)?);
        let len = usize::try_from(u64::from_le_bytes(len)).map_err(|_| self.operand())?;
        let taken = self.take(len)?;
        Ok(self.place(taken))
    }

    pub(super) fn long(&mut self, len: usize) -> Step<Node> {
        let bytes = self.take(len)?;
        if len > 8 {
            return Ok(Node::Long(self.place(bytes)));
        }
        let negative = bytes.last().is_some_and(|&b| b >= 0x80);
        let mut wide = [if negative { 0xff } else { 0 }; 8];
        wide[..len].copy_from_slice(bytes);
        Ok(Node::Int(i64::from_le_bytes(wide)))
    }

    pub(super) fn line(&mut self) -> Step<&'a [u8]> {
        let rest = &self.pickle.bytes[self.at..];
        let window = &rest[..rest.len().min(LINE)];
        let end = window.iter().position(|&b| b == b'\n').ok_or(PickleError::Truncated { at: self.op.at })?;
        self.at += end + 1;
        let line = &rest[..end];
        Ok(line.strip_suffix(b"\r").unwrap_or(line))
    }

    pub(super) fn line_number(&mut self) -> Step<u64> {
        let line = self.line()?;
        std::str::from_utf8(line).ok().and_then(|t| t.trim().parse().ok()).ok_or_else(|| self.operand())
    }

    pub(super) fn two_lines(&mut self) -> Step<(String, String)> {
        let (module, name) = (self.line()?, self.line()?);
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).map_err(|_| self.operand());
        Ok((text(module)?, text(name)?))
    }

    /// A decimal number; beyond 64 bits its digits are kept as they are.
    pub(super) fn decimal(&mut self, digits: &'a [u8]) -> Step<Node> {
        let text = std::str::from_utf8(digits).map_err(|_| self.operand())?.trim();
        if let Ok(value) = text.parse() {
            return Ok(Node::Int(value));
        }
        let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
        if unsigned.is_empty() || !unsigned.bytes().all(|b| b.is_ascii_digit()) {
            return Err(self.operand());
        }
        Ok(Node::Long(self.place(digits)))
    }

    /// A slice of the pickle as its place in it.
    pub(super) fn place(&self, part: &'a [u8]) -> Text {
        let start = part.as_ptr() as usize - self.pickle.bytes.as_ptr() as usize;
        Text::At(start as u32..(start + part.len()) as u32)
    }

    pub(super) fn owned(&mut self, bytes: Vec<u8>) -> Step<Text> {
        self.charge(2 * bytes.len())?;
        Ok(Text::Owned(bytes.into()))
    }
}
