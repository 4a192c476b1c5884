//! Typed reading of a JSON object, field by field; what nobody asks for remains.

use deberta_ops::Activation;
use serde_json::{Map, Value};

use super::{ConfigError, PosAttType, ProblemType};

#[derive(Clone, Default)]
pub(super) struct Fields(Map<String, Value>);

impl Fields {
    pub(super) fn new(map: Map<String, Value>) -> Self {
        Self(map)
    }

    /// What was not asked for.
    pub(super) fn rest(self) -> Map<String, Value> {
        self.0
    }

    pub(super) fn has(&self, field: &str) -> bool {
        self.0.contains_key(field)
    }

    /// The value of `field`, or `None` where it is absent or null.
    fn take(&mut self, field: &str) -> Option<Value> {
        self.0.shift_remove(field).filter(|v| !v.is_null())
    }

    fn typed<T>(
        &mut self,
        field: &str,
        expected: &'static str,
        convert: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<T>, ConfigError> {
        let Some(value) = self.take(field) else { return Ok(None) };
        convert(&value).map(Some).ok_or_else(|| mistyped(field, &value, expected))
    }

    pub(super) fn optional_size(&mut self, field: &str) -> Result<Option<usize>, ConfigError> {
        self.typed(field, "a whole number, zero or more", |v| whole(v).and_then(|n| usize::try_from(n).ok()))
    }

    pub(super) fn size(&mut self, field: &str, default: usize) -> Result<usize, ConfigError> {
        Ok(self.optional_size(field)?.unwrap_or(default))
    }

    pub(super) fn integer(&mut self, field: &str, default: i64) -> Result<i64, ConfigError> {
        Ok(self.typed(field, "a whole number", whole)?.unwrap_or(default))
    }

    /// `None` where the field is absent, `Some(None)` where it is null.
    pub(super) fn integer_or_null(&mut self, field: &str) -> Result<Option<Option<i64>>, ConfigError> {
        if self.has(field) { self.typed(field, "a whole number or null", whole).map(Some) } else { Ok(None) }
    }

    /// Reads a field and leaves it among the unknown ones, to be written back.
    pub(super) fn peek_integer(&self, field: &str) -> Result<Option<i64>, ConfigError> {
        self.clone().typed(field, "a whole number", whole)
    }

    pub(super) fn number(&mut self, field: &str, default: f64) -> Result<f64, ConfigError> {
        Ok(self.typed(field, "a number", Value::as_f64)?.unwrap_or(default))
    }

    pub(super) fn switch(&mut self, field: &str, default: bool) -> Result<bool, ConfigError> {
        Ok(self.typed(field, "true or false", Value::as_bool)?.unwrap_or(default))
    }

    pub(super) fn text(&mut self, field: &str, default: &str) -> Result<String, ConfigError> {
        Ok(self.typed(field, "a string", |v| v.as_str().map(str::to_owned))?.unwrap_or_else(|| default.to_owned()))
    }

    pub(super) fn activation(&mut self, field: &str, default: Activation) -> Result<Activation, ConfigError> {
        let known = "the name of an activation this program has: gelu, gelu_new, gelu_fast, gelu_pytorch_tanh, \
                     quick_gelu, relu, tanh, silu, swish, sigmoid, mish, linear, … (see the table in the documentation)";
        Ok(self.typed(field, known, |v| Activation::from_name(v.as_str()?))?.unwrap_or(default))
    }

    pub(super) fn problem_type(&mut self) -> Result<Option<ProblemType>, ConfigError> {
        let expected = "null, regression, single_label_classification or multi_label_classification";
        self.typed("problem_type", expected, |v| ProblemType::ALL.into_iter().find(|p| Some(p.name()) == v.as_str()))
    }

    /// An object inside the object, left in place.
    pub(super) fn nested(&self, field: &str) -> Result<Option<Self>, ConfigError> {
        match self.0.get(field) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Self(map.clone()))),
            Some(other) => Err(mistyped(field, other, "an object")),
        }
    }

    /// `{"0": "name", …}`.
    pub(super) fn id2label(&mut self) -> Result<Map<String, Value>, ConfigError> {
        let expected = "an object that names the classes \"0\", \"1\", …";
        Ok(self.typed("id2label", expected, |v| v.as_object().cloned())?.unwrap_or_default())
    }

    /// A list, whose entries count to the letter, or a string, lowercased and split at `|`. Null is none. Absent is
    /// none for Hugging Face, and `c2p` for Microsoft (`getattr(config, 'pos_att_type', 'c2p')`).
    pub(super) fn pos_att_type(&mut self, microsoft: bool) -> Result<PosAttType, ConfigError> {
        let Some(value) = self.0.shift_remove("pos_att_type") else {
            return Ok(PosAttType { c2p: microsoft, p2c: false, spelling: None });
        };
        let entries: Option<Vec<String>> = match &value {
            Value::Null => Some(Vec::new()),
            Value::String(s) => Some(s.to_lowercase().split('|').map(|e| e.trim().to_owned()).collect()),
            Value::Array(list) => list.iter().map(|e| e.as_str().map(str::to_owned)).collect(),
            _ => None,
        };
        let entries = entries
            .ok_or_else(|| mistyped("pos_att_type", &value, "a list such as [\"p2c\", \"c2p\"] or \"p2c|c2p\""))?;
        let has = |name: &str| entries.iter().any(|e| e == name);
        if has("p2p") {
            return Err(ConfigError::Unusable {
                field: "pos_att_type",
                found: value.to_string(),
                reason: "position-to-position attention (p2p) has no working definition in any reference; use c2p and \
                         p2c"
                .to_owned(),
            });
        }
        Ok(PosAttType { c2p: has("c2p"), p2c: has("p2c"), spelling: Some(value) })
    }
}

/// A whole number, also where it is written as `512.0`.
fn whole(value: &Value) -> Option<i64> {
    if let Some(n) = value.as_i64() {
        return Some(n);
    }
    let float = value.as_f64().filter(|f| f.fract() == 0.0 && f.abs() < 9e15)?;
    #[expect(clippy::cast_possible_truncation, reason = "checked to be whole and below 2⁵³")]
    Some(float as i64)
}

fn mistyped(field: &str, value: &Value, expected: &'static str) -> ConfigError {
    let mut found = value.to_string();
    if found.chars().count() > 60 {
        found = found.chars().take(60).chain(['…']).collect();
    }
    ConfigError::Type { field: field.to_owned(), found, expected }
}
