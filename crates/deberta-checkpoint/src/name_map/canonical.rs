//! A checkpoint's name for a tensor, made comparable with the schema's.

use safetensors::Dtype;

use super::rules::{
    BEGINNINGS, ENDINGS, Family, MICROSOFT, PREFIXES, Rule, TENSORFLOW, TENSORFLOW_ENDINGS, TENSORFLOW_ROOTS, Transform,
};
use crate::checkpoint::Checkpoint;

/// What a name of a checkpoint may become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub name: String,
    pub transform: Transform,
    pub without_bias: bool,
}

/// Which family of names a checkpoint uses.
pub(crate) fn family_of(checkpoint: &Checkpoint) -> Family {
    let ends = |end: &str| checkpoint.tensors().any(|t| t.name.ends_with(end));
    if checkpoint.format().is_tensorflow() || ends("/kernel:0") || ends("/kernel") {
        Family::TensorFlow
    } else if [".in_proj.weight", ".pos_proj.weight", ".pos_q_proj.weight"]
        .iter()
        .any(|n| ends(&format!(".attention.self{n}")))
    {
        Family::Microsoft
    } else {
        Family::HuggingFace
    }
}

/// The parameters that a name stands for; mostly one, three for `in_proj`.
///
/// `known` says whether the schema has a name: a bare base model's names lack `deberta.`, which is told from that.
pub(crate) fn targets(name: &str, family: Family, known: impl Fn(&str) -> bool) -> Vec<Target> {
    let (canonical, transform) = match family {
        Family::TensorFlow => tensorflow(name),
        Family::HuggingFace | Family::Microsoft => (unwrapped(name), Transform::Same),
    };
    let spellings = [canonical.clone(), format!("deberta.{canonical}")];
    for spelling in &spellings {
        if let Some(found) = apply(rules(family), spelling) {
            return found;
        }
    }
    let name = spellings.iter().find(|s| known(s)).cloned().unwrap_or(canonical);
    vec![Target { name, transform, without_bias: false }]
}

fn rules(family: Family) -> &'static [Rule] {
    match family {
        Family::HuggingFace => &[],
        Family::Microsoft => MICROSOFT,
        Family::TensorFlow => TENSORFLOW,
    }
}

fn apply(rules: &[Rule], name: &str) -> Option<Vec<Target>> {
    rules.iter().find_map(|rule| {
        let layer = layer_number(rule.from, name)?;
        let target = |(to, transform): &(&str, Transform)| Target {
            name: to.replace("{i}", layer),
            transform: *transform,
            without_bias: rule.without_bias,
        };
        Some(rule.to.iter().map(target).collect())
    })
}

/// What `{i}` stands for where `name` fits `pattern`.
fn layer_number<'n>(pattern: &str, name: &'n str) -> Option<&'n str> {
    let (before, after) = pattern.split_once("{i}")?;
    let number = name.strip_prefix(before)?.strip_suffix(after)?;
    (!number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())).then_some(number)
}

/// The one spelling of a name, as far as it can be told without the others of its checkpoint: without the wrappers of training
/// programs, TensorFlow's scopes as dots, a bare encoder's names with `deberta.` in front.
pub fn one_name(name: &str) -> String {
    let family = if name.contains('/') { Family::TensorFlow } else { Family::HuggingFace };
    let base = |n: &str| n.starts_with("deberta.embeddings.") || n.starts_with("deberta.encoder.");
    targets(name, family, base).into_iter().next().map_or_else(|| name.to_owned(), |target| target.name)
}

/// A name that the schema does not know, without the wrappers that the known ones lost.
pub(crate) fn own_name(name: &str, family: Family) -> String {
    if family == Family::TensorFlow { name.to_owned() } else { unwrapped(name) }
}

/// Without the wrappers of training programs, and with today's last parts.
fn unwrapped(name: &str) -> String {
    let mut rest = name;
    while let Some(inner) = PREFIXES.iter().find_map(|p| rest.strip_prefix(p)) {
        rest = inner;
    }
    let mut name = rest.to_owned();
    for (from, to) in BEGINNINGS {
        if let Some(inner) = name.strip_prefix(from) {
            name = format!("{to}{inner}");
        }
    }
    for (from, to) in ENDINGS {
        if let Some(start) = name.strip_suffix(from) {
            name = format!("{start}{to}");
        }
    }
    name
}

/// `tf_deberta_v2_for_masked_lm_1/deberta/encoder/layer_._0/output/dense/kernel:0` with its scopes as dots, and what that
/// says about its axes.
fn tensorflow(name: &str) -> (String, Transform) {
    let name = name.strip_suffix(":0").unwrap_or(name);
    let mut parts: Vec<&str> = name.split('/').collect();
    // The scopes before the model's own: the model's class or name, and in HDF5 the group of the layer before that.
    if let Some(class) = parts.iter().rposition(|p| p.starts_with("tf_deberta")) {
        parts.drain(..=class);
    } else if let Some(start) = TENSORFLOW_ROOTS.iter().find_map(|root| parts.iter().rposition(|p| p == root)) {
        parts.drain(..start);
    }
    let mut name = parts.join(".").replace(".layer_._", ".layer.");
    let mut transform = Transform::Same;
    for (from, to, how) in TENSORFLOW_ENDINGS {
        if let Some(start) = name.strip_suffix(from) {
            (name, transform) = (format!("{start}{to}"), *how);
            break;
        }
    }
    (name, transform)
}

/// Whether a type holds the numbers of a parameter.
pub(crate) fn is_float(dtype: Dtype) -> bool {
    matches!(
        dtype,
        Dtype::F64
            | Dtype::F32
            | Dtype::F16
            | Dtype::BF16
            | Dtype::F8_E4M3
            | Dtype::F8_E5M2
            | Dtype::F8_E4M3FNUZ
            | Dtype::F8_E5M2FNUZ
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(name: &str, family: Family) -> (String, Transform) {
        let known = |n: &str| n.starts_with("deberta.e") || n.starts_with("classifier");
        let mut found = targets(name, family, known);
        assert_eq!(found.len(), 1, "{name}");
        let target = found.remove(0);
        (target.name, target.transform)
    }

    #[test]
    fn wrappers_and_old_endings_come_off() {
        let expected = ("deberta.embeddings.LayerNorm.weight".to_owned(), Transform::Same);
        for name in [
            "deberta.embeddings.LayerNorm.weight",
            "embeddings.LayerNorm.gamma",
            "bert.embeddings.LayerNorm.weight",
            "module.deberta.embeddings.LayerNorm.gamma",
            "state_dict.model.module.deberta.embeddings.LayerNorm.weight",
        ] {
            assert_eq!(one(name, Family::HuggingFace), expected, "{name}");
        }
        assert_eq!(one("classifier.bias", Family::HuggingFace).0, "classifier.bias");
    }

    #[test]
    fn tensorflow_scopes_become_dots() {
        let case = |name: &str| one(name, Family::TensorFlow);
        assert_eq!(
            case("tf_deberta_v2_for_masked_lm_1/deberta/encoder/layer_._11/attention/self/pos_q_proj/kernel:0"),
            ("deberta.encoder.layer.11.attention.self.pos_query_proj.weight".into(), Transform::Kernel)
        );
        assert_eq!(
            case("deberta/tf_deberta_v2_model/deberta/encoder/rel_embeddings.weight:0"),
            ("deberta.encoder.rel_embeddings.weight".into(), Transform::Same)
        );
        assert_eq!(
            case("tf_deberta_v2_model/deberta/encoder/layer_._0/output/LayerNorm/gamma"),
            ("deberta.encoder.layer.0.output.LayerNorm.weight".into(), Transform::Same)
        );
    }

    #[test]
    fn in_proj_becomes_three() {
        let found = targets("bert.encoder.layer.3.attention.self.in_proj.weight", Family::Microsoft, |_| true);
        let names: Vec<_> = found.iter().map(|t| t.name.rsplit('.').nth(1).unwrap()).collect();
        assert_eq!(names, ["query_proj", "key_proj", "value_proj"]);
        assert!(found.iter().all(|t| t.without_bias && t.name.starts_with("deberta.encoder.layer.3.attention.self.")));
    }
}
