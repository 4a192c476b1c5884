//! One layer: attention and feed-forward, each with its residual and layer norm in one kernel after the product.

use deberta_model::{DebertaV2Config, Profile, Trace};
use deberta_ops::Activation;

use crate::device::{Device, Matrix, Memory};
use crate::disentangled_attention::SelfAttention;
use crate::error::CudaError;
use crate::ops::Residual;
use crate::pass::Pass;
use crate::tensors::Rows;
use crate::weights::{LayerNorm, Linear, Loader};

pub(crate) struct Layer<M> {
    attention: SelfAttention<M>,
    attention_output: Output<M>,
    intermediate: Linear<M>,
    activation: Activation,
    output: Output<M>,
}

/// LayerNorm(x·Wᵀ + b + residual).
struct Output<M> {
    dense: Linear<M>,
    layer_norm: LayerNorm<M>,
}

impl<M: Memory> Output<M> {
    fn new<D: Device<Memory = M>>(loader: &mut Loader<'_, '_, D>, at: &str) -> Result<Self, CudaError> {
        Ok(Self {
            dense: loader.linear(&format!("{at}.output.dense"))?,
            layer_norm: loader.layer_norm(&format!("{at}.output.LayerNorm"))?,
        })
    }

    fn forward<D: Device<Memory = M>>(
        &self,
        x: &Rows<M>,
        residual: Matrix<'_>,
        pass: &Pass<'_, D>,
        trace: &mut Trace<'_, f32>,
    ) -> Result<Rows<M>, CudaError> {
        trace.within("output", |trace| {
            let sum = self.dense.forward(pass.ops, x.view())?;
            pass.emit(trace, "dense", &sum)?;
            let out = Rows::new(pass.ops, sum.count(), sum.width())?;
            let residual = Residual { states: residual, rows: None };
            pass.ops.layer_norm(&out.view(), &sum.view(), None, Some(&residual), &self.layer_norm.view(), None)?;
            pass.emit(trace, "", &out)?;
            Ok(out)
        })
    }
}

impl<M: Memory> Layer<M> {
    pub(crate) fn new<D: Device<Memory = M>>(
        config: &DebertaV2Config,
        profile: &Profile,
        loader: &mut Loader<'_, '_, D>,
        relative_rows: Option<&Rows<M>>,
        index: usize,
    ) -> Result<Self, CudaError> {
        let at = format!("deberta.encoder.layer.{index}");
        Ok(Self {
            attention: SelfAttention::new(config, profile, loader, relative_rows, &at)?,
            attention_output: Output::new(loader, &format!("{at}.attention"))?,
            intermediate: loader.linear(&format!("{at}.intermediate.dense"))?,
            output: Output::new(loader, &at)?,
            activation: config.hidden_act,
        })
    }

    /// `query_states` are those of the enhanced mask decoder; absent, the hidden states.
    ///
    /// # Shapes
    /// All [N, E].
    pub(crate) fn forward<D: Device<Memory = M>>(
        &self,
        hidden_states: Matrix<'_>,
        query_states: Option<Matrix<'_>>,
        pass: &Pass<'_, D>,
        trace: &mut Trace<'_, f32>,
    ) -> Result<(Rows<M>, Option<Rows<M>>), CudaError> {
        let (attended, probabilities) = trace.within("attention", |trace| {
            let (context, probabilities) =
                trace.within("self", |trace| self.attention.forward(hidden_states, query_states, pass, trace))?;
            let residual = query_states.unwrap_or(hidden_states);
            let out = self.attention_output.forward(&context, residual, pass, trace)?;
            pass.emit(trace, "", &out)?;
            Ok::<_, CudaError>((out, probabilities))
        })?;
        let inner = trace.within("intermediate", |trace| {
            let inner = self.intermediate.forward(pass.ops, attended.view())?; // [N, I]
            pass.emit(trace, "dense", &inner)?;
            pass.ops.bias_activation(&inner.view(), None, self.activation)?;
            pass.emit(trace, "", &inner)?;
            Ok::<_, CudaError>(inner)
        })?;
        let out = self.output.forward(&inner, attended.view(), pass, trace)?;
        pass.emit(trace, "", &out)?;
        Ok((out, probabilities))
    }
}
