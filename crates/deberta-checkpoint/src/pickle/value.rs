//! The graph that a pickle describes: nodes in an arena, referring to each other by index.

use std::borrow::Cow;
use std::ops::Range;

use super::globals::{self, RefusedGlobal, Verdict};

/// The index of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Id(pub u32);

/// A string or bytes: mostly a place in the pickle, seldom decoded (escapes of protocol 0).
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Text {
    At(Range<u32>),
    Owned(Box<[u8]>),
}

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Node {
    None,
    Bool(bool),
    Int(i64),
    /// An integer beyond 64 bits: two's complement, least significant byte first.
    Long(Text),
    Float(f64),
    Str(Text),
    Bytes(Text),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Set(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    /// A Python object by name: an index into [`Pickle::globals`].
    Global(u32),
    /// An object kept outside the pickle, such as a storage; the node says which.
    Persistent(Id),
    /// A call that Python would make, with what would then be done to its result.
    Call(Box<Call>),
}

/// A call, written down.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Call {
    pub callable: Id,
    /// The positional arguments.
    pub args: Vec<Id>,
    /// A dict of keyword arguments (`NEWOBJ_EX`).
    pub kwargs: Option<Id>,
    /// Elements appended to the result.
    pub list: Vec<Id>,
    /// Items set on the result.
    pub items: Vec<(Id, Id)>,
    /// The state that `BUILD` would hand to the result.
    pub state: Option<Id>,
}

/// A global, and how often the pickle names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Global {
    pub module: String,
    pub name: String,
    pub count: usize,
}

/// A pickle, read.
#[derive(Debug)]
pub(crate) struct Pickle<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) nodes: Vec<Node>,
    pub(super) globals: Vec<Global>,
    pub(super) root: Option<Id>,
    pub(super) protocol: u8,
    pub(super) opcodes: u64,
    /// How many bytes it takes, `STOP` included.
    pub(super) len: usize,
}

impl Pickle<'_> {
    /// The value that unpickling would give.
    pub fn root(&self) -> Option<Id> {
        self.root
    }

    /// Its length in bytes: where the next one begins.
    pub fn len(&self) -> usize {
        self.len
    }

    /// The protocol it announces; 0 where it announces none.
    pub fn protocol(&self) -> u8 {
        self.protocol
    }

    /// How many opcodes were read.
    pub fn opcodes(&self) -> u64 {
        self.opcodes
    }

    /// A node.
    pub fn node(&self, id: Id) -> &Node {
        &self.nodes[id.0 as usize]
    }

    /// All nodes, in the order in which the pickle makes them.
    pub fn nodes(&self) -> impl Iterator<Item = (Id, &Node)> {
        self.nodes.iter().enumerate().map(|(i, n)| (Id(i as u32), n))
    }

    /// Every global the pickle names, once, in order of first use.
    pub fn globals(&self) -> &[Global] {
        &self.globals
    }

    /// The raw bytes of a string.
    pub fn text<'t>(&'t self, text: &'t Text) -> &'t [u8] {
        match text {
            Text::At(range) => &self.bytes[range.start as usize..range.end as usize],
            Text::Owned(bytes) => bytes,
        }
    }

    /// A node as a string, if it is one and is UTF-8.
    pub fn str(&self, id: Id) -> Option<&str> {
        match self.node(id) {
            Node::Str(text) => std::str::from_utf8(self.text(text)).ok(),
            _ => None,
        }
    }

    /// A node as an integer. Booleans are none.
    pub fn int(&self, id: Id) -> Option<i64> {
        match self.node(id) {
            Node::Int(i) => Some(*i),
            _ => None,
        }
    }

    /// A node as a size or an offset.
    pub fn size(&self, id: Id) -> Option<usize> {
        usize::try_from(self.int(id)?).ok()
    }

    /// A tuple or list of sizes; `torch.Size(…)` likewise.
    pub fn sizes(&self, id: Id) -> Option<Vec<usize>> {
        match self.node(id) {
            Node::Tuple(items) | Node::List(items) => items.iter().map(|&i| self.size(i)).collect(),
            Node::Call(call) if self.global(call.callable) == Some(("torch", "Size")) => match call.args.as_slice() {
                [] => Some(Vec::new()),
                [sizes] => match self.node(*sizes) {
                    Node::Tuple(items) | Node::List(items) => items.iter().map(|&i| self.size(i)).collect(),
                    _ => None,
                },
                _ => None,
            },
            _ => None,
        }
    }

    /// The elements of a tuple.
    pub fn tuple(&self, id: Id) -> Option<&[Id]> {
        match self.node(id) {
            Node::Tuple(items) => Some(items),
            _ => None,
        }
    }

    /// A node as a global: module and name.
    pub fn global(&self, id: Id) -> Option<(&str, &str)> {
        match self.node(id) {
            Node::Global(i) => self.globals.get(*i as usize).map(|g| (g.module.as_str(), g.name.as_str())),
            _ => None,
        }
    }

    /// The items of a dict, or of a call that makes one (`OrderedDict`, `defaultdict`).
    pub fn items(&self, id: Id) -> Option<&[(Id, Id)]> {
        match self.node(id) {
            Node::Dict(items) => Some(items),
            Node::Call(call) => match self.global(call.callable)? {
                ("collections", "OrderedDict" | "defaultdict" | "Counter") => Some(&call.items),
                _ => None,
            },
            _ => None,
        }
    }

    /// The first global outside the closed list, with what it would have done.
    pub fn refused(&self) -> Option<RefusedGlobal> {
        let global = self.globals.iter().find(|g| matches!(globals::verdict(&g.module, &g.name), Verdict::Refused))?;
        Some(RefusedGlobal {
            module: global.module.clone(),
            name: global.name.clone(),
            effect: globals::effect(&global.module, &global.name),
            call: self
                .calls()
                .find(|(name, _)| *name == (&global.module, &global.name))
                .map(|(_, call)| self.render_call(call)),
        })
    }

    /// Every call, with the global called. Calls of anything but a global are left out.
    pub fn calls(&self) -> impl Iterator<Item = ((&str, &str), &Call)> {
        self.nodes.iter().filter_map(|node| match node {
            Node::Call(call) => self.global(call.callable).map(|name| (name, call.as_ref())),
            _ => None,
        })
    }

    /// A call as Python would write it, shortened.
    pub fn render_call(&self, call: &Call) -> String {
        let mut out = String::new();
        self.render_into(call.callable, 0, &mut out);
        self.render_list("(", &call.args, ")", 1, &mut out);
        shorten(&out)
    }

    /// A value as Python would write it, shortened.
    pub fn render(&self, id: Id) -> String {
        let mut out = String::new();
        self.render_into(id, 0, &mut out);
        shorten(&out)
    }

    fn render_into(&self, id: Id, depth: usize, out: &mut String) {
        if depth > 4 || out.len() > RENDERED {
            out.push('…');
            return;
        }
        match self.node(id) {
            Node::None => out.push_str("None"),
            Node::Bool(b) => out.push_str(if *b { "True" } else { "False" }),
            Node::Int(i) => out.push_str(&i.to_string()),
            Node::Long(text) => out.push_str(&format!("<integer of {} bytes>", self.text(text).len())),
            Node::Float(x) => out.push_str(&x.to_string()),
            Node::Str(text) => out.push_str(&format!("{:?}", clip(self.text(text)))),
            Node::Bytes(text) => out.push_str(&format!("b{:?}", clip(self.text(text)))),
            Node::Tuple(items) => self.render_list("(", items, ")", depth + 1, out),
            Node::List(items) => self.render_list("[", items, "]", depth + 1, out),
            Node::Set(items) => self.render_list("{", items, "}", depth + 1, out),
            Node::Dict(items) => {
                out.push('{');
                for (i, &(key, value)) in items.iter().take(SHOWN).enumerate() {
                    out.push_str(if i == 0 { "" } else { ", " });
                    self.render_into(key, depth + 1, out);
                    out.push_str(": ");
                    self.render_into(value, depth + 1, out);
                }
                out.push_str(if items.len() > SHOWN { ", …}" } else { "}" });
            }
            Node::Global(i) => {
                let global = &self.globals[*i as usize];
                let (module, name) = (clip(global.module.as_bytes()), clip(global.name.as_bytes()));
                out.push_str(&format!("{}.{}", module.escape_debug(), name.escape_debug()));
            }
            Node::Persistent(inner) => {
                out.push_str("persistent ");
                self.render_into(*inner, depth + 1, out);
            }
            Node::Call(call) => {
                self.render_into(call.callable, depth + 1, out);
                self.render_list("(", &call.args, ")", depth + 1, out);
            }
        }
    }

    fn render_list(&self, open: &str, items: &[Id], close: &str, depth: usize, out: &mut String) {
        out.push_str(open);
        for (i, &item) in items.iter().take(SHOWN).enumerate() {
            out.push_str(if i == 0 { "" } else { ", " });
            self.render_into(item, depth, out);
        }
        out.push_str(if items.len() > SHOWN { ", …" } else { "" });
        out.push_str(close);
    }
}

/// How many elements of a container, and how many characters in all, a rendered value shows.
const SHOWN: usize = 6;
const RENDERED: usize = 200;

fn clip(bytes: &[u8]) -> Cow<'_, str> {
    let clipped = &bytes[..bytes.len().min(RENDERED)];
    String::from_utf8_lossy(clipped)
}

fn shorten(text: &str) -> String {
    match text.char_indices().nth(RENDERED) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
