//! The stack machine: opcodes in, nodes out.

use std::collections::HashMap;

use super::PickleError;
use super::escapes::{unescape_string, unescape_unicode};
use super::value::{Call, Global, Id, Node, Pickle};

/// What the graph may take in memory beyond the length of the pickle.
const SLACK: usize = 24 << 20;
/// How many values, and how many marks, may wait on the stack.
const STACK: usize = 1 << 20;
/// The longest line of protocol 0, and the longest name of a global.
pub(super) const LINE: usize = 1 << 20;

/// Reads one pickle from the start of `bytes`. On an error, what was read up to there is returned beside it.
pub(crate) fn parse(bytes: &[u8]) -> (Pickle<'_>, Result<(), PickleError>) {
    let mut machine = Machine {
        pickle: Pickle { bytes, nodes: Vec::new(), globals: Vec::new(), root: None, protocol: 0, opcodes: 0, len: 0 },
        at: 0,
        op: Op { at: 0, name: "" },
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        global_ids: HashMap::new(),
        budget: bytes.len().saturating_add(SLACK),
        misuse: None,
    };
    let outcome = machine.run().and_then(|()| machine.misuse.take().map_or(Ok(()), Err));
    machine.pickle.len = machine.at;
    (machine.pickle, outcome)
}

/// The opcode at work, for error messages.
#[derive(Clone, Copy)]
pub(super) struct Op {
    pub at: usize,
    pub name: &'static str,
}

pub(super) struct Machine<'a> {
    pub(super) pickle: Pickle<'a>,
    pub(super) at: usize,
    pub(super) op: Op,
    stack: Vec<Id>,
    marks: Vec<usize>,
    memo: HashMap<u64, Id>,
    global_ids: HashMap<(String, String), u32>,
    budget: usize,
    /// The first attempt to change what is no container, such as a module. It is an error, but one that does not hide what
    /// the pickle goes on to ask for.
    misuse: Option<PickleError>,
}

pub(super) type Step<T = ()> = Result<T, PickleError>;

impl<'a> Machine<'a> {
    fn run(&mut self) -> Step {
        // Ranges into the pickle are kept as 32-bit numbers.
        if u32::try_from(self.pickle.bytes.len()).is_err() {
            self.pickle.bytes = &self.pickle.bytes[..u32::MAX as usize];
        }
        loop {
            self.op = Op { at: self.at, name: "an opcode" };
            let opcode = self.take(1)?[0];
            self.pickle.opcodes += 1;
            if opcode == b'.' {
                self.op.name = "STOP";
                self.pickle.root = Some(self.pop()?);
                return Ok(());
            }
            let known = self.scalar(opcode)?
                || self.string(opcode)?
                || self.container(opcode)?
                || self.stack_and_memo(opcode)?
                || self.object(opcode)?;
            if !known {
                return Err(PickleError::UnknownOpcode { at: self.op.at, opcode });
            }
        }
    }

    /// Opcodes that push a number, a truth value or None.
    fn scalar(&mut self, opcode: u8) -> Step<bool> {
        let node = match opcode {
            b'N' => Node::None,
            0x88 => Node::Bool(true),
            0x89 => Node::Bool(false),
            b'J' => Node::Int(i32::from_le_bytes(self.named("BININT").array()?).into()),
            b'K' => Node::Int(self.named("BININT1").take(1)?[0].into()),
            b'M' => Node::Int(u16::from_le_bytes(self.named("BININT2").array()?).into()),
            b'G' => Node::Float(f64::from_be_bytes(self.named("BINFLOAT").array()?)),
            0x8a => {
                let len = self.named("LONG1").take(1)?[0].into();
                self.long(len)?
            }
            0x8b => {
                let len = i32::from_le_bytes(self.named("LONG4").array()?);
                let len = usize::try_from(len).map_err(|_| self.operand())?;
                self.long(len)?
            }
            b'I' => match self.named("INT").line()? {
                b"00" => Node::Bool(false),
                b"01" => Node::Bool(true),
                digits => self.decimal(digits)?,
            },
            b'L' => {
                let digits = self.named("LONG").line()?;
                self.decimal(digits.strip_suffix(b"L").unwrap_or(digits))?
            }
            b'F' => {
                let text = self.named("FLOAT").line()?;
                let value = std::str::from_utf8(text).ok().and_then(|t| t.trim().parse().ok());
                Node::Float(value.ok_or_else(|| self.operand())?)
            }
            _ => return Ok(false),
        };
        self.push_node(node)?;
        Ok(true)
    }

    /// Opcodes that push a string or bytes.
    fn string(&mut self, opcode: u8) -> Step<bool> {
        let node = match opcode {
            b'X' => Node::Str(self.named("BINUNICODE").sized::<4>()?),
            0x8c => Node::Str(self.named("SHORT_BINUNICODE").sized::<1>()?),
            0x8d => Node::Str(self.named("BINUNICODE8").sized::<8>()?),
            b'T' => Node::Str(self.named("BINSTRING").sized::<4>()?),
            b'U' => Node::Str(self.named("SHORT_BINSTRING").sized::<1>()?),
            b'B' => Node::Bytes(self.named("BINBYTES").sized::<4>()?),
            b'C' => Node::Bytes(self.named("SHORT_BINBYTES").sized::<1>()?),
            0x8e => Node::Bytes(self.named("BINBYTES8").sized::<8>()?),
            0x96 => Node::Bytes(self.named("BYTEARRAY8").sized::<8>()?),
            b'S' => {
                let line = self.named("STRING").line()?.trim_ascii();
                let quoted = match line {
                    [b'\'', inner @ .., b'\''] | [b'"', inner @ .., b'"'] => inner,
                    _ => return Err(self.operand()),
                };
                let text =
                    if quoted.contains(&b'\\') { self.owned(unescape_string(quoted))? } else { self.place(quoted) };
                Node::Str(text)
            }
            b'V' => {
                let line = self.named("UNICODE").line()?;
                // The encoding is Latin-1 with escapes for all else.
                let plain = line.is_ascii() && !line.contains(&b'\\');
                Node::Str(if plain { self.place(line) } else { self.owned(unescape_unicode(line))? })
            }
            _ => return Ok(false),
        };
        self.push_node(node)?;
        Ok(true)
    }

    /// Opcodes that make or fill lists, tuples, sets and dicts.
    fn container(&mut self, opcode: u8) -> Step<bool> {
        match opcode {
            b')' => self.push_node(Node::Tuple(Vec::new()))?,
            b']' => self.push_node(Node::List(Vec::new()))?,
            b'}' => self.push_node(Node::Dict(Vec::new()))?,
            0x8f => self.push_node(Node::Set(Vec::new()))?,
            0x85..=0x87 => {
                self.op.name = "TUPLE1 to TUPLE3";
                let items = self.pop_many(usize::from(opcode - 0x84))?;
                self.push_node(Node::Tuple(items))?;
            }
            b't' => {
                let items = self.named("TUPLE").pop_mark()?;
                self.push_node(Node::Tuple(items))?;
            }
            b'l' => {
                let items = self.named("LIST").pop_mark()?;
                self.push_node(Node::List(items))?;
            }
            0x91 => {
                let items = self.named("FROZENSET").pop_mark()?;
                self.push_node(Node::Set(items))?;
            }
            b'd' => {
                let items = self.named("DICT").pop_mark()?;
                let pairs = self.pairs(&items)?;
                self.push_node(Node::Dict(pairs))?;
            }
            b'a' => {
                let items = self.named("APPEND").pop_many(1)?;
                self.append(items)?;
            }
            b'e' => {
                let items = self.named("APPENDS").pop_mark()?;
                self.append(items)?;
            }
            0x90 => {
                let items = self.named("ADDITEMS").pop_mark()?;
                self.append(items)?;
            }
            b's' => {
                let items = self.named("SETITEM").pop_many(2)?;
                self.set_items(&items)?;
            }
            b'u' => {
                let items = self.named("SETITEMS").pop_mark()?;
                self.set_items(&items)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Opcodes that move values about, and framing.
    fn stack_and_memo(&mut self, opcode: u8) -> Step<bool> {
        match opcode {
            b'(' => {
                self.op.name = "MARK";
                if self.marks.len() >= STACK {
                    return Err(self.too_large());
                }
                self.marks.push(self.stack.len());
            }
            b'0' => {
                self.op.name = "POP";
                // As in Python, a mark on top is what gets popped.
                if self.marks.last() == Some(&self.stack.len()) {
                    self.marks.pop();
                } else {
                    self.pop()?;
                }
            }
            b'1' => drop(self.named("POP_MARK").pop_mark()?),
            b'2' => {
                self.op.name = "DUP";
                let top = self.top()?;
                self.push(top)?;
            }
            b'p' => {
                let key = self.named("PUT").line_number()?;
                self.remember(key)?;
            }
            b'q' => {
                let key = self.named("BINPUT").take(1)?[0].into();
                self.remember(key)?;
            }
            b'r' => {
                let key = u32::from_le_bytes(self.named("LONG_BINPUT").array()?).into();
                self.remember(key)?;
            }
            0x94 => {
                self.op.name = "MEMOIZE";
                self.remember(self.memo.len() as u64)?;
            }
            b'g' => {
                let key = self.named("GET").line_number()?;
                self.recall(key)?;
            }
            b'h' => {
                let key = self.named("BINGET").take(1)?[0].into();
                self.recall(key)?;
            }
            b'j' => {
                let key = u32::from_le_bytes(self.named("LONG_BINGET").array()?).into();
                self.recall(key)?;
            }
            0x80 => {
                let protocol = self.named("PROTO").take(1)?[0];
                if protocol > 5 {
                    return Err(PickleError::Protocol { protocol });
                }
                self.pickle.protocol = protocol;
            }
            0x95 => {
                let len = u64::from_le_bytes(self.named("FRAME").array()?);
                let left = (self.pickle.bytes.len() - self.at) as u64;
                if len > left {
                    return Err(PickleError::Truncated { at: self.op.at });
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Opcodes that name or make Python objects.
    fn object(&mut self, opcode: u8) -> Step<bool> {
        match opcode {
            b'c' => {
                let (module, name) = self.named("GLOBAL").two_lines()?;
                self.global(&module, &name)?;
            }
            0x93 => {
                let names = self.named("STACK_GLOBAL").pop_many(2)?;
                let (Some(module), Some(name)) = (self.pickle.str(names[0]), self.pickle.str(names[1])) else {
                    return Err(self.misfit());
                };
                if module.len() + name.len() > LINE {
                    return Err(self.operand());
                }
                let (module, name) = (module.to_owned(), name.to_owned());
                self.global(&module, &name)?;
            }
            b'R' | 0x81 => {
                self.op.name = if opcode == b'R' { "REDUCE" } else { "NEWOBJ" };
                let [callable, args] = self.pop_pair()?;
                let args = self.arguments(args)?;
                self.call(callable, args, None)?;
            }
            0x92 => {
                let kwargs = self.named("NEWOBJ_EX").pop()?;
                let [callable, args] = self.pop_pair()?;
                let args = self.arguments(args)?;
                self.call(callable, args, Some(kwargs))?;
            }
            b'i' => {
                let (module, name) = self.named("INST").two_lines()?;
                let args = self.pop_mark()?;
                self.global(&module, &name)?;
                let callable = self.pop()?;
                self.call(callable, args, None)?;
            }
            b'o' => {
                let mut args = self.named("OBJ").pop_mark()?;
                if args.is_empty() {
                    return Err(self.misfit());
                }
                let callable = args.remove(0);
                self.call(callable, args, None)?;
            }
            b'b' => {
                let state = self.named("BUILD").pop()?;
                let target = self.top()?;
                match &mut self.pickle.nodes[target.0 as usize] {
                    Node::Call(call) => call.state = Some(state),
                    _ => self.note_misuse(),
                }
            }
            b'Q' => {
                let id = self.named("BINPERSID").pop()?;
                self.push_node(Node::Persistent(id))?;
            }
            b'P' => {
                let line = self.named("PERSID").line()?;
                let text = self.place(line);
                self.push_node(Node::Str(text))?;
                let id = self.pop()?;
                self.push_node(Node::Persistent(id))?;
            }
            0x82..=0x84 => return Err(self.refuse("EXT1 to EXT4 (the extension registry)")),
            0x97 | 0x98 => return Err(self.refuse("NEXT_BUFFER or READONLY_BUFFER (out-of-band data)")),
            _ => return Ok(false),
        }
        Ok(true)
    }

    // What the opcodes are made of.

    fn append(&mut self, items: Vec<Id>) -> Step {
        let target = self.top()?;
        self.charge(items.len() * 8)?;
        match &mut self.pickle.nodes[target.0 as usize] {
            Node::List(list) | Node::Set(list) => list.extend(items),
            Node::Call(call) => call.list.extend(items),
            _ => self.note_misuse(),
        }
        Ok(())
    }

    fn set_items(&mut self, items: &[Id]) -> Step {
        let target = self.top()?;
        let pairs = self.pairs(items)?;
        match &mut self.pickle.nodes[target.0 as usize] {
            Node::Dict(dict) => dict.extend(pairs),
            Node::Call(call) => call.items.extend(pairs),
            _ => self.note_misuse(),
        }
        Ok(())
    }

    fn pairs(&mut self, items: &[Id]) -> Step<Vec<(Id, Id)>> {
        if !items.len().is_multiple_of(2) {
            return Err(self.misfit());
        }
        self.charge(items.len() * 8)?;
        Ok(items.chunks_exact(2).map(|p| (p[0], p[1])).collect())
    }

    fn arguments(&mut self, args: Id) -> Step<Vec<Id>> {
        let args = self.pickle.tuple(args).ok_or_else(|| self.misfit())?.to_vec();
        self.charge(args.len() * 4)?;
        Ok(args)
    }

    fn call(&mut self, callable: Id, args: Vec<Id>, kwargs: Option<Id>) -> Step {
        self.charge(size_of::<Call>())?;
        let call = Call { callable, args, kwargs, list: Vec::new(), items: Vec::new(), state: None };
        self.push_node(Node::Call(Box::new(call)))
    }

    fn global(&mut self, module: &str, name: &str) -> Step {
        let key = (module.to_owned(), name.to_owned());
        let index = match self.global_ids.get(&key) {
            Some(&index) => index,
            None => {
                self.charge(2 * (module.len() + name.len()) + 200)?;
                let index = self.pickle.globals.len() as u32;
                self.pickle.globals.push(Global { module: module.to_owned(), name: name.to_owned(), count: 0 });
                self.global_ids.insert(key, index);
                index
            }
        };
        self.pickle.globals[index as usize].count += 1;
        self.push_node(Node::Global(index))
    }

    fn remember(&mut self, key: u64) -> Step {
        let top = self.top()?;
        self.charge(32)?;
        self.memo.insert(key, top);
        Ok(())
    }

    fn recall(&mut self, key: u64) -> Step {
        let id = *self.memo.get(&key).ok_or_else(|| self.misfit())?;
        self.push(id)
    }

    fn push(&mut self, id: Id) -> Step {
        if self.stack.len() >= STACK {
            return Err(self.too_large());
        }
        self.stack.push(id);
        Ok(())
    }

    fn push_node(&mut self, node: Node) -> Step {
        let inner = match &node {
            Node::Tuple(v) | Node::List(v) | Node::Set(v) => v.capacity() * 4,
            _ => 0,
        };
        // Twice: a vector that grows holds its old and its new memory for a moment.
        self.charge(2 * size_of::<Node>() + inner)?;
        let id = Id(u32::try_from(self.pickle.nodes.len()).map_err(|_| self.too_large())?);
        self.pickle.nodes.push(node);
        self.push(id)
    }

    pub(super) fn charge(&mut self, bytes: usize) -> Step {
        self.budget = self.budget.checked_sub(bytes).ok_or_else(|| self.too_large())?;
        Ok(())
    }

    /// Values below the innermost mark cannot be reached.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn top(&self) -> Step<Id> {
        if self.stack.len() <= self.floor() {
            return Err(self.misfit());
        }
        self.stack.last().copied().ok_or_else(|| self.misfit())
    }

    fn pop(&mut self) -> Step<Id> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    fn pop_pair(&mut self) -> Step<[Id; 2]> {
        let second = self.pop()?;
        Ok([self.pop()?, second])
    }

    fn pop_many(&mut self, n: usize) -> Step<Vec<Id>> {
        let start = self.stack.len().checked_sub(n).filter(|&s| s >= self.floor()).ok_or_else(|| self.misfit())?;
        Ok(self.stack.split_off(start))
    }

    fn pop_mark(&mut self) -> Step<Vec<Id>> {
        let start = self.marks.pop().ok_or_else(|| self.misfit())?;
        Ok(self.stack.split_off(start))
    }

    // Errors.

    pub(super) fn operand(&self) -> PickleError {
        PickleError::Operand { at: self.op.at, opcode: self.op.name }
    }

    pub(super) fn misfit(&self) -> PickleError {
        PickleError::Stack { at: self.op.at, opcode: self.op.name }
    }

    fn note_misuse(&mut self) {
        let misfit = self.misfit();
        self.misuse.get_or_insert(misfit);
    }

    pub(super) fn too_large(&self) -> PickleError {
        PickleError::TooLarge { len: self.pickle.bytes.len() }
    }

    fn refuse(&self, name: &'static str) -> PickleError {
        PickleError::RefusedOpcode { at: self.op.at, name }
    }
}
