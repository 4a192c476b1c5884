//! A user's rename file: a rule a line, the first that fits a name counts.
//!
//! ```text
//! # comment
//! blocks.*.attn.q  = deberta.encoder.layer.*.attention.self.query_proj
//! h_*              = hidden_states.${1-1}
//! debug.**         = -
//! ```
//!
//! In the pattern `*` stands for anything but a dot or a slash, `**` for anything. In the replacement the first `*` (or
//! `**`) is what the first one of the pattern stood for, and so on; `$1` or `${1}` is it by number, `${1+1}` and `${1-1}` the
//! number that it is, shifted. The replacement `-` leaves the tensor out.

use std::collections::BTreeMap;
use std::path::Path;

use regex::Regex;

use super::{By, Match};
use crate::VerifyError;
use crate::dump::Dump;

/// More than anybody writes: a file beyond it is something else.
const LARGEST: u64 = 1 << 20;

/// The rules of a file.
#[derive(Clone, Debug)]
pub struct Renames {
    source: String,
    rules: Vec<Rule>,
}

#[derive(Clone, Debug)]
struct Rule {
    line: usize,
    text: String,
    pattern: Regex,
    /// `None` leaves the tensor out.
    replacement: Option<Vec<Piece>>,
}

#[derive(Clone, Debug, PartialEq)]
enum Piece {
    Text(String),
    /// What a star stood for, counted from 1, and what is added to it.
    Star(usize, i64),
}

impl Renames {
    /// Reads a file.
    ///
    /// # Errors
    /// A file that cannot be read, and a line that is no rule.
    pub fn read(path: &Path) -> Result<Self, VerifyError> {
        let io = |source| VerifyError::Io { path: path.to_owned(), source };
        if std::fs::metadata(path).map_err(io)?.len() > LARGEST {
            return Err(io(std::io::Error::other("larger than any file of rules (1 MiB)")));
        }
        Self::parse(&path.display().to_string(), &std::fs::read_to_string(path).map_err(io)?)
    }

    /// The rules of a text; `source` is for messages.
    ///
    /// # Errors
    /// A line that is no rule.
    pub fn parse(source: &str, text: &str) -> Result<Self, VerifyError> {
        let lines = text.lines().enumerate().map(|(i, line)| (i + 1, line.trim()));
        let rules = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')).map(|(number, line)| {
            rule(number, line).map_err(|reason| VerifyError::Rename { file: source.to_owned(), line: number, reason })
        });
        Ok(Self { source: source.to_owned(), rules: rules.collect::<Result<_, _>>()? })
    }

    /// Renames the tensors of a dump. Rules that fit none are noted in it.
    ///
    /// # Errors
    /// Two tensors that get one name.
    pub fn apply(&self, dump: &mut Dump) -> Result<Vec<Match>, VerifyError> {
        let mut used = vec![false; self.rules.len()];
        let mut matches = Vec::new();
        let (mut dropped, mut sources) = (Vec::new(), BTreeMap::new());
        for (name, _) in dump.iter() {
            let found = self.rules.iter().enumerate().find_map(|(i, rule)| Some((i, rule.pattern.captures(name)?)));
            let to = match &found {
                None => name.to_owned(),
                Some((i, stars)) => {
                    used[*i] = true;
                    match &self.rules[*i].replacement {
                        None => {
                            dropped.push(name.to_owned());
                            continue;
                        }
                        Some(pieces) => replaced(pieces, stars).map_err(|reason| self.wrong(*i, reason))?,
                    }
                }
            };
            if let Some(other) = sources.insert(to.clone(), name.to_owned()) {
                let i = found.as_ref().map_or(0, |(i, _)| *i);
                return Err(self.wrong(i, format!("{other} and {name} would both be called {to}")));
            }
            if to != name {
                matches.push(Match { actual: name.to_owned(), expected: to, by: By::Rule });
            }
        }
        dropped.iter().for_each(|name| drop(dump.remove(name)));
        dump.rename_all(matches.iter().map(|m| (m.actual.as_str(), m.expected.as_str())));
        for (rule, _) in self.rules.iter().zip(&used).filter(|(_, used)| !**used) {
            dump.notes.push(format!("{}:{}: no tensor fits `{}`", self.source, rule.line, rule.text));
        }
        Ok(matches)
    }

    fn wrong(&self, rule: usize, reason: String) -> VerifyError {
        VerifyError::Rename { file: self.source.clone(), line: self.rules[rule].line, reason }
    }
}

fn rule(line: usize, text: &str) -> Result<Rule, String> {
    let (pattern, replacement) = text.split_once('=').ok_or("expected `pattern = replacement`")?;
    let (pattern, replacement) = (pattern.trim(), replacement.trim());
    if pattern.is_empty() || replacement.is_empty() {
        return Err("expected `pattern = replacement`; `-` as the replacement leaves a tensor out".into());
    }
    let escaped = regex::escape(pattern).replace(r"\*\*", "(.*)").replace(r"\*", "([^./]*)");
    let compiled = Regex::new(&format!("^(?:{escaped})$")).map_err(|_| "the pattern is too long".to_owned())?;
    let stars = compiled.captures_len() - 1;
    let replacement = if replacement == "-" { None } else { Some(pieces(replacement, stars)?) };
    Ok(Rule { line, text: pattern.to_owned(), pattern: compiled, replacement })
}

fn pieces(text: &str, stars: usize) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let (mut rest, mut next) = (text, 1);
    while let Some(at) = rest.find(['*', '$']) {
        pieces.push(Piece::Text(rest[..at].to_owned()));
        rest = &rest[at..];
        let piece = if rest.starts_with('*') {
            rest = rest.trim_start_matches('*');
            next += 1;
            Piece::Star(next - 1, 0)
        } else {
            let (piece, after) =
                reference(&rest[1..]).ok_or("after `$` stands a number, or {number}, {number+n}, {number-n}")?;
            rest = after;
            piece
        };
        if let Piece::Star(star, _) = piece
            && !(1..=stars).contains(&star)
        {
            return Err(format!("the replacement asks for star {star}, and the pattern has {stars}"));
        }
        pieces.push(piece);
    }
    pieces.push(Piece::Text(rest.to_owned()));
    Ok(pieces)
}

/// `1`, `{1}`, `{1+2}` or `{1-2}` at the start of a text, and what follows.
fn reference(text: &str) -> Option<(Piece, &str)> {
    let Some(braced) = text.strip_prefix('{') else {
        let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        return Some((Piece::Star(text[..digits].parse().ok()?, 0), &text[digits..]));
    };
    let (inside, after) = braced.split_once('}')?;
    let sign = inside.find(['+', '-']).unwrap_or(inside.len());
    let plus = if sign == inside.len() { 0 } else { inside[sign..].parse().ok()? };
    Some((Piece::Star(inside[..sign].trim().parse().ok()?, plus), after))
}

fn replaced(pieces: &[Piece], stars: &regex::Captures<'_>) -> Result<String, String> {
    let mut name = String::new();
    for piece in pieces {
        match piece {
            Piece::Text(text) => name.push_str(text),
            Piece::Star(star, plus) => {
                let found = stars.get(*star).map_or("", |m| m.as_str());
                if *plus == 0 {
                    name.push_str(found);
                    continue;
                }
                let shifted = found.parse::<i64>().ok().and_then(|n| n.checked_add(*plus)).filter(|n| *n >= 0);
                name.push_str(&shifted.ok_or_else(|| format!("{found} {plus:+} is no number from 0 on"))?.to_string());
            }
        }
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use ndarray::{ArrayD, IxDyn};

    use super::*;
    use crate::tensor::Tensor;

    fn renamed(rules: &str, names: &[&str]) -> Result<(Vec<String>, Vec<String>), String> {
        let mut dump = Dump::new("dump");
        for name in names {
            dump.insert(*name, Tensor::from_f64(&ArrayD::zeros(IxDyn(&[1]))));
        }
        let renames = Renames::parse("rules", rules).map_err(|e| e.to_string())?;
        renames.apply(&mut dump).map_err(|e| e.to_string())?;
        Ok((dump.iter().map(|(n, _)| n.to_owned()).collect(), dump.notes))
    }

    fn names(rules: &str, given: &[&str]) -> Vec<String> {
        renamed(rules, given).expect("the rules are sound").0
    }

    #[test]
    fn stars_are_carried_over() {
        assert_eq!(names("b.*.q = layer.*.query", &["b.3.q", "b.10.q"]), ["layer.10.query", "layer.3.query"]);
        assert_eq!(names("a.*.*.c = $2.${1}", &["a.x.y.c"]), ["y.x"]);
        assert_eq!(names("** = deberta.**", &["a.b/c"]), ["deberta.a.b/c"]);
        assert_eq!(names("*.q = no", &["a.b.q"]), ["a.b.q"], "a star stops at a dot");
        assert_eq!(names("h* = hidden_states.${1-1}", &["h1", "h12"]), ["hidden_states.0", "hidden_states.11"]);
    }

    #[test]
    fn the_first_rule_counts_and_unused_ones_are_noted() {
        let (names, notes) = renamed("# comment\na = x\n\n* = y\nz = w\n", &["a", "b"]).expect("the rules are sound");
        assert_eq!(names, ["x", "y"]);
        assert_eq!(notes, ["rules:5: no tensor fits `z`"]);
    }

    #[test]
    fn names_may_be_exchanged_and_tensors_left_out() {
        assert_eq!(names("a = b\nb = a\nc = -", &["a", "b", "c"]), ["a", "b"]);
        let mut dump = Dump::new("dump");
        for (name, value) in [("a", 1.0), ("b", 2.0)] {
            dump.insert(name, Tensor::from_f64(&ArrayD::from_elem(IxDyn(&[1]), value)));
        }
        Renames::parse("rules", "a = b\nb = a").and_then(|r| r.apply(&mut dump)).expect("the rules are sound");
        assert_eq!(dump.get("a").map(|t| t.value(0)), Some(2.0));
        assert_eq!(dump.origin("a").map(|o| o.name.as_str()), Some("b"));
    }

    #[test]
    fn a_line_that_is_no_rule_is_named() {
        for (rules, part) in [
            ("a = b\nhello", "rules:2"),
            ("a =", "replacement"),
            ("a = $1", "star 1"),
            ("* = ${1+x}", "number"),
            ("* = *.*", "star 2"),
            ("* = x", "a and b would both be called x"),
            ("* = ${1-1}", "a -1 is no number"),
        ] {
            let said = renamed(rules, &["a", "b"]).expect_err(rules);
            assert!(said.contains(part), "{said}");
        }
    }
}
