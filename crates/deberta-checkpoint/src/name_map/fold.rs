//! Many names as a few: `deberta.encoder.layer.{0..11}.output.dense.weight` stands for twelve.

use std::collections::BTreeMap;
use std::fmt::Write;

/// Names with the numbers of their layers as ranges, in the order in which they first occur.
pub fn fold<'n>(names: impl IntoIterator<Item = &'n str>) -> Vec<String> {
    let mut order: Vec<(&str, &str)> = Vec::new();
    let mut numbers: BTreeMap<(&str, &str), Vec<usize>> = BTreeMap::new();
    for name in names {
        let (before, number, after) = split(name);
        let of_this = numbers.entry((before, after)).or_insert_with(|| {
            order.push((before, after));
            Vec::new()
        });
        of_this.extend(number);
    }
    let folded = order.into_iter().map(|key| {
        let numbers = &mut numbers.get_mut(&key).map(std::mem::take).unwrap_or_default();
        numbers.sort_unstable();
        numbers.dedup();
        format!("{}{}{}", key.0, ranges(numbers), key.1)
    });
    folded.collect()
}

/// The first part of a name that is a number, and what stands on either side.
fn split(name: &str) -> (&str, Option<usize>, &str) {
    let mut start = 0;
    for part in name.split(['.', '/']) {
        let end = start + part.len();
        // TensorFlow's layers are `layer_._3`.
        let digits = part.trim_start_matches('_');
        if !digits.is_empty()
            && digits.bytes().all(|b| b.is_ascii_digit())
            && let Ok(number) = digits.parse()
        {
            return (&name[..end - digits.len()], Some(number), &name[end..]);
        }
        start = end + 1;
    }
    (name, None, "")
}

/// `7` as it is, more as `{0..11}` or `{0..3, 7}`.
fn ranges(sorted: &[usize]) -> String {
    let mut text = String::new();
    let mut rest = sorted;
    while let Some(&first) = rest.first() {
        let run = rest.iter().zip(first..).take_while(|(a, b)| **a == *b).count();
        let comma = if text.is_empty() { "" } else { ", " };
        let _ = match run {
            1 => write!(text, "{comma}{first}"),
            2 => write!(text, "{comma}{first}, {}", first + 1),
            _ => write!(text, "{comma}{first}..{}", first + run - 1),
        };
        rest = &rest[run..];
    }
    if sorted.len() > 1 { format!("{{{text}}}") } else { text }
}

/// The first few of a list of names, folded, and how many more there are.
pub(crate) fn some<'n>(names: impl IntoIterator<Item = &'n str>, most: usize) -> String {
    let folded = fold(names);
    let more = folded.len().saturating_sub(most);
    let shown = folded[..folded.len() - more].join(", ");
    if more == 0 { shown } else { format!("{shown} and {more} more") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_become_ranges() {
        let names: Vec<String> = [0, 1, 2, 3, 7, 9, 10]
            .iter()
            .flat_map(|i| ["a", "b"].map(|end| format!("encoder.layer.{i}.{end}.0")))
            .chain(["classifier.weight".to_owned(), "encoder/layer_._0/k".to_owned(), "encoder/layer_._1/k".to_owned()])
            .collect();
        let folded = fold(names.iter().map(String::as_str));
        assert_eq!(
            folded,
            [
                "encoder.layer.{0..3, 7, 9, 10}.a.0",
                "encoder.layer.{0..3, 7, 9, 10}.b.0",
                "classifier.weight",
                "encoder/layer_._{0, 1}/k"
            ]
        );
        assert_eq!(fold(["x.3.y"]), ["x.3.y"]);
        assert!(fold([]).is_empty());
        assert_eq!(some(["a", "b", "c"], 2), "a, b and 1 more");
    }
}
