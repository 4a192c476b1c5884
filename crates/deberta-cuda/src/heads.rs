//! What stands on top of the encoder, as far as its logits: losses are the model crate's own.

use deberta_model::{DebertaV2Config, Head, Profile, Trace};
use deberta_ops::Activation;

use crate::device::{Device, Gemm, Memory};
use crate::error::CudaError;
use crate::ops::{Ops, Residual};
use crate::pass::Pass;
use crate::tensors::Rows;
use crate::weights::{LayerNorm, Linear, Loader};

/// The parameters of a head.
pub(crate) enum HeadWeights<M> {
    Base,
    LanguageModel(LanguageModelHead<M>),
    /// The pooler is absent where the profile pools by attention.
    Pooled {
        pooler: Option<Linear<M>>,
        activation: Activation,
        classifier: Linear<M>,
    },
    /// A class a token, after a projection where Microsoft's NER model has one; also start and end of an answer.
    Token {
        proj: Option<Linear<M>>,
        classifier: Linear<M>,
        module: &'static str,
    },
    ReplacedTokenDetection(ReplacedTokenDetection<M>),
}

impl<M: Memory> HeadWeights<M> {
    pub(crate) fn new<D: Device<Memory = M>>(
        config: &DebertaV2Config,
        head: Head,
        profile: &Profile,
        loader: &mut Loader<'_, '_, D>,
    ) -> Result<Self, CudaError> {
        Ok(match head {
            Head::Base => Self::Base,
            Head::MaskedLm | Head::EnhancedMaskedLm => {
                let legacy = head == Head::MaskedLm && config.legacy;
                Self::LanguageModel(LanguageModelHead::new(config, legacy, loader)?)
            }
            Head::SequenceClassification | Head::MultipleChoice => {
                let by_attention = head == Head::MultipleChoice && profile.pools_choices_by_attention;
                Self::Pooled {
                    pooler: (!by_attention).then(|| loader.linear("pooler.dense")).transpose()?,
                    activation: config.pooler_hidden_act,
                    classifier: loader.linear("classifier")?,
                }
            }
            Head::TokenClassification => Self::Token {
                proj: loader.optional_linear("proj")?,
                classifier: loader.linear("classifier")?,
                module: "classifier",
            },
            Head::QuestionAnswering => {
                Self::Token { proj: None, classifier: loader.linear("qa_outputs")?, module: "qa_outputs" }
            }
            Head::ReplacedTokenDetection => Self::ReplacedTokenDetection(ReplacedTokenDetection::new(config, loader)?),
        })
    }
}

/// The logits of pooled sequences, [B, C]: of each sequence's first state, or of all its states weighed by attention.
pub(crate) fn pooled<D: Device>(
    states: &Rows<D::Memory>,
    pooler: Option<&Linear<D::Memory>>,
    activation: Activation,
    classifier: &Linear<D::Memory>,
    pass: &Pass<'_, D>,
) -> Result<Rows<D::Memory>, CudaError> {
    let ops = pass.ops;
    let size = pass.packing.shape().0;
    let gathered = Rows::new(ops, size, states.width())?; // [B, E]
    let pooled = match pooler {
        None => {
            let starts = pass.staged.starts.view();
            ops.pool_by_attention(
                &gathered.view(),
                &states.view(),
                &starts,
                pass.exists().as_ref(),
                pass.packing.longest,
            )?;
            gathered
        }
        Some(pooler) => {
            ops.gather_rows(&gathered.view(), &states.view(), &pass.staged.firsts.view())?;
            let pooled = pooler.forward(ops, gathered.view())?;
            ops.bias_activation(&pooled.view(), None, activation)?;
            pooled
        }
    };
    classifier.forward(ops, pooled.view())
}

/// The logits of each token, [N, C].
pub(crate) fn tokens<D: Device>(
    states: &Rows<D::Memory>,
    proj: Option<&Linear<D::Memory>>,
    classifier: &Linear<D::Memory>,
    ops: Ops<'_, D>,
) -> Result<Rows<D::Memory>, CudaError> {
    let Some(proj) = proj else {
        return classifier.forward(ops, states.view());
    };
    let projected = proj.forward(ops, states.view())?;
    ops.bias_activation(&projected.view(), None, Activation::Gelu)?;
    classifier.forward(ops, projected.view())
}

/// logits = LayerNorm(act(h·Wᵀ + b))·Wordᵀ + bias.
pub(crate) struct LanguageModelHead<M> {
    dense: Linear<M>,
    activation: Activation,
    layer_norm: LayerNorm<M>,
    /// Where the decoder does not share the word embeddings, [V, E′].
    decoder: Option<Rows<M>>,
    /// [1, V]
    bias: Rows<M>,
}

impl<M: Memory> LanguageModelHead<M> {
    fn new<D: Device<Memory = M>>(
        config: &DebertaV2Config,
        legacy: bool,
        loader: &mut Loader<'_, '_, D>,
    ) -> Result<Self, CudaError> {
        let (at, transform) = match legacy {
            true => ("cls.predictions", "cls.predictions.transform"),
            false => ("lm_predictions.lm_head", "lm_predictions.lm_head"),
        };
        let (mut decoder, mut bias) = (None, None);
        if legacy {
            decoder = loader.optional_table(&format!("{at}.decoder.weight"))?;
            bias = loader.optional_product_bias(&format!("{at}.decoder.bias"))?;
        }
        Ok(Self {
            dense: loader.linear(&format!("{transform}.dense"))?,
            activation: config.hidden_act,
            layer_norm: loader.layer_norm(&format!("{transform}.LayerNorm"))?,
            decoder,
            bias: match bias {
                Some(bias) => bias,
                None => loader.product_bias(&format!("{at}.bias"))?,
            },
        })
    }

    /// # Shapes
    /// `states` [N, E], `word` [V, E′]; returns [N, V].
    pub(crate) fn forward<D: Device<Memory = M>>(
        &self,
        ops: Ops<'_, D>,
        states: &Rows<M>,
        word: &Rows<M>,
    ) -> Result<Rows<M>, CudaError> {
        let inner = self.dense.forward(ops, states.view())?; // [N, E′]
        ops.bias_activation(&inner.view(), None, self.activation)?;
        ops.layer_norm(&inner.view(), &inner.view(), None, None, &self.layer_norm.view(), None)?;
        let decoder = self.decoder.as_ref().unwrap_or(word);
        let logits = Rows::new(ops, states.count(), decoder.count())?;
        ops.device.gemm(&Gemm {
            precision: ops.precision,
            out: logits.view(),
            x: inner.view(),
            weight: decoder.view(),
            bias: Some(self.bias.view()),
        })?;
        Ok(logits)
    }
}

/// logit_i = act(LayerNorm(h₀ + h_i)·Wᵀ + b)·wᵀ + c.
pub(crate) struct ReplacedTokenDetection<M> {
    layer_norm: LayerNorm<M>,
    dense: Linear<M>,
    activation: Activation,
    classifier: Linear<M>,
}

impl<M: Memory> ReplacedTokenDetection<M> {
    fn new<D: Device<Memory = M>>(config: &DebertaV2Config, loader: &mut Loader<'_, '_, D>) -> Result<Self, CudaError> {
        let at = "mask_predictions";
        Ok(Self {
            layer_norm: loader.layer_norm(&format!("{at}.LayerNorm"))?,
            dense: loader.linear(&format!("{at}.dense"))?,
            activation: config.hidden_act,
            classifier: loader.linear(&format!("{at}.classifier"))?,
        })
    }

    /// # Shapes
    /// `states` [N, E]; returns [N, 1].
    pub(crate) fn forward<D: Device<Memory = M>>(
        &self,
        states: &Rows<M>,
        pass: &Pass<'_, D>,
        trace: &mut Trace<'_, f32>,
    ) -> Result<Rows<M>, CudaError> {
        trace.within("mask_predictions", |trace| {
            let ops = pass.ops;
            let normed = Rows::new(ops, states.count(), states.width())?;
            let first = Residual { states: states.view(), rows: Some(pass.staged.first_of_row.view()) };
            ops.layer_norm(&normed.view(), &states.view(), None, Some(&first), &self.layer_norm.view(), None)?;
            pass.emit(trace, "LayerNorm", &normed)?;
            let inner = self.dense.forward(ops, normed.view())?;
            pass.emit(trace, "dense", &inner)?;
            ops.bias_activation(&inner.view(), None, self.activation)?;
            pass.emit(trace, "transform_act_fn", &inner)?;
            let logits = self.classifier.forward(ops, inner.view())?;
            pass.emit(trace, "classifier", &logits)?;
            Ok(logits)
        })
    }
}
