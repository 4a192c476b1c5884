//! Named arrays, checked against the schema, and the small modules that hold them.

use std::collections::BTreeMap;

use deberta_ops::{
    Affine, Panels, Real, accumulates_wide, layer_norm, linear, linear_wide, panels_layer_norm, residual_layer_norm,
};
use ndarray::{Array2, ArrayView1, ArrayView2, CowArray, Dimension, Ix1, Ix2, IxDyn};

use crate::config::DebertaV2Config;
use crate::error::ModelError;
use crate::profile::Profile;
use crate::schema::{Head, Parameter, Presence, schema, schema_under};

/// The path of the layer that an attention by itself is taken from.
pub(crate) const ONLY_LAYER: &str = "deberta.encoder.layer.0";

/// The parameters of a model by their names in [`schema()`]. Arrays may be views of somebody else's memory.
pub struct Weights<'w, T: Clone> {
    arrays: BTreeMap<String, CowArray<'w, T, IxDyn>>,
}

impl<'w, T: Real> Weights<'w, T> {
    /// Checks that `arrays` holds every parameter of `config` under `head`, in its shape. Other arrays are ignored.
    ///
    /// # Errors
    /// [`ModelError::Weights`], which names every parameter that is missing or misshapen.
    pub fn new(
        config: &DebertaV2Config,
        head: Head,
        profile: &Profile,
        mut arrays: BTreeMap<String, CowArray<'w, T, IxDyn>>,
    ) -> Result<Self, ModelError> {
        let parameters = schema_under(config, head, profile);
        for parameter in &parameters {
            // Of two tied parameters either may stand for both.
            if let Presence::TiedTo(other) = &parameter.presence
                && !arrays.contains_key(other)
                && let Some(array) = arrays.remove(&parameter.name)
            {
                arrays.insert(other.clone(), array);
            }
        }
        Self::checked(parameters, arrays)
    }

    /// The parameters of one attention, given under their names within it.
    pub(crate) fn of_attention(
        config: &DebertaV2Config,
        arrays: BTreeMap<String, CowArray<'w, T, IxDyn>>,
    ) -> Result<Self, ModelError> {
        let at = format!("{ONLY_LAYER}.attention.self.");
        let parameters = schema(config, Head::Base).into_iter().filter(|p| p.name.starts_with(&at)).collect();
        let arrays = arrays.into_iter().map(|(name, array)| (format!("{at}{name}"), array)).collect();
        Self::checked(parameters, arrays)
    }

    fn checked(
        parameters: Vec<Parameter>,
        arrays: BTreeMap<String, CowArray<'w, T, IxDyn>>,
    ) -> Result<Self, ModelError> {
        let (mut missing, mut misshapen) = (Vec::new(), Vec::new());
        for parameter in parameters {
            match arrays.get(&parameter.name) {
                Some(array) if array.shape() == parameter.shape => {}
                Some(array) => misshapen.push((parameter.name, parameter.shape, array.shape().to_vec())),
                None if parameter.presence == Presence::Required => missing.push(parameter.name),
                None => {}
            }
        }
        if missing.is_empty() && misshapen.is_empty() {
            Ok(Self { arrays })
        } else {
            Err(ModelError::Weights { missing, misshapen })
        }
    }

    /// Takes a parameter that may be absent. Which of them the model has is in [`schema()`].
    pub fn optional<D: Dimension>(&mut self, name: &str) -> Option<CowArray<'w, T, D>> {
        let array = self.arrays.remove(name)?;
        Some(array.into_dimensionality().expect("the schema gave the shape, and so the number of axes"))
    }

    /// Takes a required parameter.
    ///
    /// # Panics
    /// If the schema does not require it, or it was taken before.
    pub fn take<D: Dimension>(&mut self, name: &str) -> CowArray<'w, T, D> {
        self.optional(name).unwrap_or_else(|| unreachable!("{name} is required and was checked to be present"))
    }

    pub(crate) fn linear(&mut self, module: &str) -> Linear<'w, T> {
        Linear { weight: self.take(&format!("{module}.weight")), bias: self.optional(&format!("{module}.bias")) }
    }

    pub(crate) fn optional_linear(&mut self, module: &str) -> Option<Linear<'w, T>> {
        let weight = self.optional(&format!("{module}.weight"))?;
        Some(Linear { weight, bias: self.optional(&format!("{module}.bias")) })
    }

    pub(crate) fn layer_norm(&mut self, module: &str, eps: f64) -> LayerNorm<'w, T> {
        let (weight, bias) = (self.take(&format!("{module}.weight")), self.take(&format!("{module}.bias")));
        LayerNorm { weight, bias, eps }
    }
}

/// `torch.nn.Linear`: weight [O, I], bias \[O\] or none.
pub(crate) struct Linear<'w, T: Clone> {
    weight: CowArray<'w, T, Ix2>,
    bias: Option<CowArray<'w, T, Ix1>>,
}

impl<T: Real> Linear<'_, T> {
    /// [N, I] → [N, O].
    pub(crate) fn forward(&self, x: ArrayView2<'_, T>) -> Array2<T> {
        linear(x, self.weight.view(), self.bias())
    }

    /// [N, I] → [N, O], not yet rounded.
    pub(crate) fn forward_wide(&self, x: ArrayView2<'_, T>) -> Array2<f64> {
        linear_wide(x, self.weight.view(), self.bias())
    }

    /// Whether [`Self::forward_wide`] keeps digits that [`Self::forward`] rounds away, for so many rows.
    pub(crate) fn is_wide(&self, rows: usize) -> bool {
        accumulates_wide(rows, &self.weight.view())
    }

    /// The map by itself.
    pub(crate) fn affine(&self) -> Affine<'_, T> {
        Affine { weight: self.weight.view(), bias: self.bias() }
    }

    fn bias(&self) -> Option<ArrayView1<'_, T>> {
        self.bias.as_ref().map(|b| b.view())
    }
}

/// `torch.nn.LayerNorm` over the last axis.
pub(crate) struct LayerNorm<'w, T: Clone> {
    weight: CowArray<'w, T, Ix1>,
    bias: CowArray<'w, T, Ix1>,
    eps: f64,
}

impl<T: Real> LayerNorm<'_, T> {
    /// [N, E] → [N, E]; what is normalized may be wider than the state it becomes.
    pub(crate) fn forward<S: Real>(&self, x: ArrayView2<'_, S>) -> Array2<T> {
        layer_norm(x, self.weight.view(), self.bias.view(), self.eps)
    }

    /// The same for x + residual.
    pub(crate) fn forward_with<S: Real>(&self, x: ArrayView2<'_, S>, residual: ArrayView2<'_, T>) -> Array2<T> {
        residual_layer_norm(x, residual, self.weight.view(), self.bias.view(), self.eps)
    }

    /// The same in panels.
    pub(crate) fn panels(&self, x: Panels<T>, residual: &Panels<T>) -> Panels<T> {
        panels_layer_norm(x, residual, self.weight.view(), self.bias.view(), self.eps)
    }
}
