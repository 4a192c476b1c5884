//! What pairs of names have in common: `blocks.7.q` is to `layer.7.query` what `blocks.3.q` is to `layer.3.query`.
//!
//! A name is a template, with its runs of digits taken out, and numbers. Where most pairs of one template agree on the
//! template they become, and the numbers follow from one another, that is a [`Pattern`], which names the rest.

use std::collections::BTreeMap;

/// The share of the pairs of a template that must agree; the others are taken for mistakes.
const AGREE: f64 = 2.0 / 3.0;

/// How far numbers may be shifted: some count layers from 1, or the embeddings among them.
const SHIFTS: [i64; 3] = [0, -1, 1];

/// How a number of the result follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slot {
    /// It is the source's number of this index, shifted.
    Of(usize, i64),
    /// It is always the same.
    Always(u64),
}

/// A rule that names follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pattern {
    from: String,
    to: String,
    slots: Vec<Slot>,
}

/// A name with `\0` for every run of digits, and the numbers. Names with longer numbers than fit are taken whole.
fn template(name: &str) -> (String, Vec<u64>) {
    let (mut text, mut numbers) = (String::new(), Vec::new());
    let mut rest = name;
    while let Some(at) = rest.find(|c: char| c.is_ascii_digit()) {
        let digits = &rest[at..];
        let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
        match digits[..end].parse() {
            // `007` would not come back.
            Ok(number) if digits[..end] == format!("{number}") => {
                text.push_str(&rest[..at]);
                text.push('\0');
                numbers.push(number);
            }
            _ => text.push_str(&rest[..at + end]),
        }
        rest = &digits[end..];
    }
    (text + rest, numbers)
}

impl Slot {
    fn number(self, numbers: &[u64]) -> Option<u64> {
        match self {
            Self::Of(index, shift) => numbers.get(index)?.checked_add_signed(shift),
            Self::Always(number) => Some(number),
        }
    }
}

impl Pattern {
    /// What the pattern makes of a name; `None` where it does not fit.
    pub fn apply(&self, name: &str) -> Option<String> {
        let (text, numbers) = template(name);
        if text != self.from {
            return None;
        }
        let mut parts = self.to.split('\0');
        let mut result = parts.next().unwrap_or_default().to_owned();
        for (part, slot) in parts.zip(&self.slots) {
            result.push_str(&slot.number(&numbers)?.to_string());
            result.push_str(part);
        }
        Some(result)
    }

    /// The two sides of a line of a rename file.
    fn line(&self) -> (String, String) {
        let from = self.from.replace('\0', "*");
        let mut parts = self.to.split('\0');
        let mut to = parts.next().unwrap_or_default().to_owned();
        for (part, slot) in parts.zip(&self.slots) {
            match slot {
                Slot::Of(index, 0) => to.push_str(&format!("${{{}}}", index + 1)),
                Slot::Of(index, shift) => to.push_str(&format!("${{{}{shift:+}}}", index + 1)),
                Slot::Always(number) => to.push_str(&number.to_string()),
            }
            to.push_str(part);
        }
        let plain = (0..self.slots.len()).all(|i| self.slots[i] == Slot::Of(i, 0));
        (from, if plain { self.to.replace('\0', "*") } else { to })
    }
}

/// The patterns that pairs of a name and what it becomes follow.
pub(super) fn learn(pairs: &[(&str, &str)]) -> Vec<Pattern> {
    type Numbers = (Vec<u64>, Vec<u64>);
    let mut by_template: BTreeMap<String, BTreeMap<String, Vec<Numbers>>> = BTreeMap::new();
    for (from, to) in pairs {
        let ((from, numbers), (to, theirs)) = (template(from), template(to));
        if !numbers.is_empty() {
            by_template.entry(from).or_default().entry(to).or_default().push((numbers, theirs));
        }
    }
    let mut patterns = Vec::new();
    for (from, targets) in by_template {
        let all: usize = targets.values().map(Vec::len).sum();
        let Some((to, numbers)) = targets.into_iter().max_by_key(|(_, n)| n.len()) else { continue };
        let slots = numbers[0].1.len();
        let choose = |slot: usize| {
            let holds = |s: Slot| numbers.iter().filter(|(a, e)| s.number(a) == Some(e[slot])).count();
            let of = SHIFTS.into_iter().flat_map(|shift| (0..numbers[0].0.len()).map(move |i| Slot::Of(i, shift)));
            let always = Slot::Always(numbers[0].1[slot]);
            of.chain([always]).rev_max_by(holds)
        };
        let slots: Vec<Slot> = (0..slots).filter_map(choose).collect();
        // Where a number of the source does not matter, or one pair is all there is, nothing is known of the others.
        let matters = |i: usize| slots.iter().any(|slot| matches!(slot, Slot::Of(index, _) if *index == i));
        if numbers.len() < 2 || !(0..numbers[0].0.len()).all(matters) {
            continue;
        }
        let pattern = Pattern { from, to, slots };
        let fits = numbers.iter().filter(|(a, e)| pattern.slots.iter().zip(e).all(|(s, e)| s.number(a) == Some(*e)));
        if fits.count() as f64 >= AGREE * all as f64 {
            patterns.push(pattern);
        }
    }
    patterns
}

/// The first of the greatest.
trait FirstMax: Iterator + Sized {
    fn rev_max_by<K: Ord>(self, key: impl Fn(Self::Item) -> K) -> Option<Self::Item>
    where
        Self::Item: Copy,
    {
        self.fold(None, |best: Option<Self::Item>, item| match best {
            Some(b) if key(b) >= key(item) => Some(b),
            _ => Some(item),
        })
    }
}

impl<I: Iterator> FirstMax for I {}

/// Pairs as lines of a rename file, those that follow a pattern as one; no pattern fits any of the `others`.
pub(super) fn fold(pairs: &[(&str, &str)], others: &[&str]) -> Vec<(String, String)> {
    let patterns: Vec<Pattern> = learn(pairs)
        .into_iter()
        // A pattern stands for its pairs only if it is right in all of them, and for one it would be longer than the pair.
        .filter(|p| {
            let mine: Vec<_> = pairs.iter().filter_map(|(from, to)| Some((p.apply(from)?, to))).collect();
            mine.len() > 1 && mine.iter().all(|(made, to)| made == *to) && others.iter().all(|o| p.apply(o).is_none())
        })
        .collect();
    let mut lines: Vec<(String, String)> = Vec::new();
    for (from, to) in pairs {
        let pattern = patterns.iter().find(|p| p.apply(from).is_some());
        let line = pattern.map_or_else(|| ((*from).to_owned(), (*to).to_owned()), Pattern::line);
        if !lines.contains(&line) {
            lines.push(line);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_pairs_have_in_common_names_the_rest() {
        let patterns = learn(&[
            ("blocks.0.q", "deberta.encoder.layer.0.query"),
            ("blocks.3.q", "deberta.encoder.layer.3.query"),
            ("h_1", "hidden_states.0"),
            ("h_5", "hidden_states.4"),
            ("head", "logits"),
        ]);
        let apply = |name: &str| patterns.iter().find_map(|p| p.apply(name));
        assert_eq!(apply("blocks.11.q").as_deref(), Some("deberta.encoder.layer.11.query"));
        assert_eq!(apply("h_12").as_deref(), Some("hidden_states.11"));
        assert_eq!(apply("h_0"), None, "there is no layer -1");
        assert_eq!(apply("blocks.11.k"), None);
    }

    #[test]
    fn most_pairs_outvote_a_few() {
        let pairs = [("b.0", "l.0"), ("b.1", "l.1"), ("b.2", "l.2"), ("b.3", "x.9")];
        assert_eq!(learn(&pairs).first().and_then(|p| p.apply("b.3")).as_deref(), Some("l.3"));
        assert!(learn(&[("b.0", "l.0"), ("b.1", "x.1")]).is_empty(), "a tie is no pattern");
        assert!(learn(&[("h.3", "last")]).is_empty(), "one is none");
        assert!(learn(&[("h.3", "last"), ("h.4", "last")]).is_empty(), "two would have one name");
    }

    #[test]
    fn pairs_fold_into_lines() {
        let pairs = [("h1.q", "a.0.x"), ("h2.q", "a.1.x"), ("b.0", "l.0"), ("b.1", "l.1"), ("z", "w"), ("y.3", "v.3")];
        let lines = fold(&pairs, &["b", "h.q"]);
        let line = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(lines, [line("h*.q", "a.${1-1}.x"), line("b.*", "l.*"), line("z", "w"), line("y.3", "v.3")]);
        assert_eq!(fold(&pairs[2..4], &["b.7"]).len(), 2, "b.7 is none of these");
    }
}
