//! Somebody else's names and layouts, brought to those of the expected dump.
//!
//! 1. A rename file ([`Renames`]) says what a tensor is: it has the first and the last word.
//! 2. Known dialects (`dialect`) are translated: Microsoft's, TensorFlow's, Keras', wrappers of training programs.
//! 3. What is still foreign is matched by shape and value (`guess`), which is said of every tensor it happens to. What a
//!    module of a known name returned when it ran again is not foreign: it has no counterpart.
//! 4. A matched tensor of another shape is read in the layout that makes it the expected one (`layout`).
//!
//! What was done is noted, in a sentence a step; nothing that already matches is touched.

mod dialect;
mod guess;
mod layout;
mod pattern;
mod rename;

use std::collections::{BTreeMap, BTreeSet};

pub use rename::Renames;

use crate::dump::Dump;
use crate::order::{self, Role, canonical, is_repeat, spelling};
use crate::tensor::Tensor;

/// How a tensor got its name.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum By {
    /// The user's file.
    Rule,
    /// A known dialect.
    Dialect,
    /// Shape and value: the cosine of the angle between the two.
    Value(f64),
    /// The pattern of the names of others that were matched by value; the cosine of the angle between the two.
    Pattern(f64),
}

/// A tensor that is compared under another name than its own.
#[derive(Clone, Debug, PartialEq)]
pub struct Match {
    /// Its own name.
    pub actual: String,
    /// The expected tensor's.
    pub expected: String,
    /// How that is known.
    pub by: By,
}

/// What became of the names.
#[derive(Clone, Debug, Default)]
pub struct Adapted {
    /// The tensors that were renamed.
    pub matches: Vec<Match>,
    /// Outputs of the actual dump that match nothing, with their shapes.
    pub unmatched: Vec<(String, Vec<usize>)>,
}

/// Brings the names and layouts of `actual` to those of `expected`, beyond what a rename file has `renamed` in it already;
/// names that are still foreign are matched by shape and value if `may_guess`. Notes are left in `actual`.
pub fn adapt(expected: &Dump, actual: &mut Dump, renamed: Vec<Match>, may_guess: bool) -> Adapted {
    let mut adapted = Adapted { matches: renamed, unmatched: Vec::new() };
    by_dialect(expected, actual, &mut adapted);
    if may_guess {
        by_guess(expected, actual, &mut adapted);
    }
    adapted.unmatched =
        unmatched(actual, expected).map(|(name, tensor)| (name.to_owned(), tensor.shape().to_vec())).collect();
    layout::relayout(expected, actual);
    adapted
}

/// A rename file, for review, that says what was found; what was not found stands in it as a comment.
pub fn proposal(adapted: &Adapted) -> String {
    let mut text = String::from(
        "# Names of the actual dump = names of the expected one. `*` stands for anything but a dot or a slash.\n",
    );
    type Kind = (&'static str, fn(&By) -> bool);
    let kinds: [Kind; 3] = [
        ("# By the rules given.\n", |by| *by == By::Rule),
        ("# Known spellings.\n", |by| *by == By::Dialect),
        ("# Guessed by shape and value, or by the pattern of names so guessed: please check.\n", |by| {
            matches!(by, By::Value(_) | By::Pattern(_))
        }),
    ];
    for (title, is_kind) in kinds {
        let pairs: Vec<_> = adapted.matches.iter().filter(|m| is_kind(&m.by)).collect();
        if !pairs.is_empty() {
            text.push_str(title);
            let pairs: Vec<_> = pairs.iter().map(|m| (m.actual.as_str(), m.expected.as_str())).collect();
            let foreign = adapted.matches.iter().filter(|m| !is_kind(&m.by)).map(|m| m.actual.as_str());
            let others: Vec<_> = foreign.chain(adapted.unmatched.iter().map(|(name, _)| name.as_str())).collect();
            pattern::fold(&pairs, &others).iter().for_each(|(from, to)| text.push_str(&format!("{from} = {to}\n")));
        }
    }
    for (name, shape) in &adapted.unmatched {
        text.push_str(&format!("# unmatched: {name} {shape:?}\n"));
    }
    text
}

/// The name of a tensor of `dump` as it is and as its dialect has it, each in the one spelling that names are compared in.
pub fn spellings(dump: &Dump, name: &str) -> [String; 2] {
    [spelling(dump, name), canonical(&dialect::translate(name))]
}

fn outputs(dump: &Dump) -> impl Iterator<Item = (&str, &Tensor)> {
    dump.iter().filter(|(name, _)| order::role(name) == Role::Output)
}

/// Outputs of one dump that stand in the other under no spelling.
fn unmatched<'d>(dump: &'d Dump, other: &Dump) -> impl Iterator<Item = (&'d str, &'d Tensor)> {
    let known: BTreeSet<String> = other.iter().map(|(name, _)| spelling(other, name)).collect();
    outputs(dump).filter(move |(name, _)| !known.contains(&spelling(dump, name)))
}

fn by_dialect(expected: &Dump, actual: &mut Dump, adapted: &mut Adapted) {
    let wanted: BTreeMap<String, &str> = expected.iter().map(|(name, _)| (spelling(expected, name), name)).collect();
    let mut taken: BTreeSet<String> = actual.iter().map(|(name, _)| spelling(actual, name)).collect();
    let names = actual.iter().map(|(name, _)| name);
    let foreign: Vec<String> =
        names.filter(|n| !wanted.contains_key(&spelling(actual, n))).map(str::to_owned).collect();
    let before = adapted.matches.len();
    for name in foreign {
        let spelled = canonical(&dialect::translate(&name));
        if let Some(&to) = wanted.get(&spelled)
            && taken.insert(spelled)
        {
            actual.rename(&name, to, None);
            adapted.matches.push(Match { actual: name, expected: to.to_owned(), by: By::Dialect });
        }
    }
    if let [first, ..] = &adapted.matches[before..] {
        let count = adapted.matches.len() - before;
        actual.notes.push(format!(
            "{} under another spelling of its name, such as {} for {}",
            counted(count, "tensor was found", "tensors were found"),
            first.actual,
            first.expected
        ));
    }
}

fn by_guess(expected: &Dump, actual: &mut Dump, adapted: &mut Adapted) {
    let found = {
        let (wanted, foreign): (Vec<_>, Vec<_>) =
            (unmatched(expected, actual).collect(), unmatched(actual, expected).filter(|t| !is_repeat(t.0)).collect());
        guess::guess(&wanted, &foreign, layout::heads(expected))
    };
    for found in &found {
        let (By::Value(cosine) | By::Pattern(cosine)) = found.by else { continue };
        actual.rename(&found.actual, &found.expected, Some(cosine));
    }
    if !found.is_empty() {
        let some = found.iter().take(3).map(|m| {
            let (By::Value(cosine) | By::Pattern(cosine)) = m.by else { return String::new() };
            format!("{} as {} (cosine {cosine:.5})", m.actual, m.expected)
        });
        let some = some.collect::<Vec<_>>().join(", ");
        actual.notes.push(format!(
            "{} by shape and value, which is a guess: {some}{}; --rename FILE settles names, --no-guess compares none of these",
            counted(found.len(), "tensor was matched", "tensors were matched"),
            if found.len() > 3 { ", …" } else { "" },
        ));
    }
    adapted.matches.extend(found);
}

fn counted(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}
