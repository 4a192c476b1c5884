//! The parameters of a model on the device: matrices in the storage type, what our own kernels add in `f32`.

use deberta_model::Weights;
use ndarray::{Array1, ArrayView2, Axis, Ix1, Ix2, Ix3, concatenate};

use crate::device::{Device, Gemm, Matrix, Memory};
use crate::error::CudaError;
use crate::ops::{Norm, Ops};
use crate::tensors::{List, Rows};

/// Takes parameters off the host and puts them onto the device.
pub(crate) struct Loader<'a, 'w, D> {
    pub(crate) ops: Ops<'a, D>,
    pub(crate) weights: Weights<'w, f32>,
    pub(crate) eps: f64,
}

/// An affine map: weight [O, I], bias \[O\] or none, both in the storage type.
pub(crate) struct Linear<M> {
    weight: Rows<M>,
    bias: Option<Rows<M>>,
}

/// A layer norm, in `f32`.
pub(crate) struct LayerNorm<M> {
    gamma: List<M, f32>,
    beta: List<M, f32>,
    eps: f32,
}

impl<D: Device> Loader<'_, '_, D> {
    /// A table of rows.
    pub(crate) fn table(&mut self, name: &str) -> Result<Rows<D::Memory>, CudaError> {
        Rows::upload(self.ops, self.weights.take::<Ix2>(name).view())
    }

    /// A table of rows, if the model has it.
    pub(crate) fn optional_table(&mut self, name: &str) -> Result<Option<Rows<D::Memory>>, CudaError> {
        self.weights.optional::<Ix2>(name).map(|table| Rows::upload(self.ops, table.view())).transpose()
    }

    /// The affine map of a module.
    pub(crate) fn linear(&mut self, module: &str) -> Result<Linear<D::Memory>, CudaError> {
        self.joined(&[module])
    }

    /// The affine map of a module, if the model has it.
    pub(crate) fn optional_linear(&mut self, module: &str) -> Result<Option<Linear<D::Memory>>, CudaError> {
        let Some(weight) = self.weights.optional::<Ix2>(&format!("{module}.weight")) else {
            return Ok(None);
        };
        let bias = self.weights.optional::<Ix1>(&format!("{module}.bias"));
        Linear::upload(self.ops, weight.view(), bias.map(|b| b.into_owned())).map(Some)
    }

    /// The affine maps of several modules of the same input, their outputs beside one another. All have a bias.
    pub(crate) fn joined(&mut self, modules: &[&str]) -> Result<Linear<D::Memory>, CudaError> {
        let weights: Vec<_> = modules.iter().map(|m| self.weights.take::<Ix2>(&format!("{m}.weight"))).collect();
        let biases: Vec<_> = modules.iter().map(|m| self.weights.take::<Ix1>(&format!("{m}.bias"))).collect();
        let views: Vec<_> = weights.iter().map(|w| w.view()).collect();
        let weight = concatenate(Axis(0), &views).expect("modules of the same input");
        let bias: Array1<f32> = biases.iter().flat_map(|b| b.iter().copied()).collect();
        Linear::upload(self.ops, weight.view(), Some(bias))
    }

    /// The layer norm of a module.
    pub(crate) fn layer_norm(&mut self, module: &str) -> Result<LayerNorm<D::Memory>, CudaError> {
        let gamma = self.vector(&format!("{module}.weight"))?;
        let beta = self.vector(&format!("{module}.bias"))?;
        #[expect(clippy::cast_possible_truncation, reason = "the kernels add ε in f32")]
        Ok(LayerNorm { gamma, beta, eps: self.eps as f32 })
    }

    /// A vector in `f32`, as our own kernels take it.
    pub(crate) fn vector(&mut self, name: &str) -> Result<List<D::Memory, f32>, CudaError> {
        List::upload(self.ops.device, &self.weights.take::<Ix1>(name).to_vec())
    }

    /// The kernel of a convolution, [O, I / groups, k], as rows of I / groups · k.
    pub(crate) fn kernel(&mut self, name: &str) -> Result<Rows<D::Memory>, CudaError> {
        let kernel = self.weights.take::<Ix3>(name);
        let (out, inner, taps) = kernel.dim();
        let rows = kernel.to_shape((out, inner * taps)).expect("as many elements as before");
        Rows::upload(self.ops, rows.view())
    }

    /// A vector in the storage type, as products add it, [1, N].
    pub(crate) fn product_bias(&mut self, name: &str) -> Result<Rows<D::Memory>, CudaError> {
        Rows::upload(self.ops, self.weights.take::<Ix1>(name).view().insert_axis(Axis(0)))
    }

    /// The same, if the model has it.
    pub(crate) fn optional_product_bias(&mut self, name: &str) -> Result<Option<Rows<D::Memory>>, CudaError> {
        let vector = self.weights.optional::<Ix1>(name);
        vector.map(|vector| Rows::upload(self.ops, vector.view().insert_axis(Axis(0)))).transpose()
    }
}

impl<M: Memory> Linear<M> {
    fn upload<D: Device<Memory = M>>(
        ops: Ops<'_, D>,
        weight: ArrayView2<'_, f32>,
        bias: Option<Array1<f32>>,
    ) -> Result<Self, CudaError> {
        let bias = bias.map(|bias| Rows::upload(ops, bias.view().insert_axis(Axis(0)))).transpose()?;
        Ok(Self { weight: Rows::upload(ops, weight)?, bias })
    }

    /// [N, I] → [N, O].
    pub(crate) fn forward<D: Device<Memory = M>>(&self, ops: Ops<'_, D>, x: Matrix<'_>) -> Result<Rows<M>, CudaError> {
        self.outputs(ops, x, 0..self.weight.count())
    }

    /// [N, I] → [N, outputs.len()], those outputs alone.
    pub(crate) fn outputs<D: Device<Memory = M>>(
        &self,
        ops: Ops<'_, D>,
        x: Matrix<'_>,
        outputs: std::ops::Range<usize>,
    ) -> Result<Rows<M>, CudaError> {
        let out = Rows::new(ops, x.rows(), outputs.len())?;
        if x.rows() > 0 {
            ops.device.gemm(&Gemm {
                precision: ops.precision,
                out: out.view(),
                x,
                weight: self.weight.view().row_range(outputs.clone()),
                bias: self.bias.as_ref().map(|bias| bias.view().column_range(outputs)),
            })?;
        }
        Ok(out)
    }
}

impl<M: Memory> LayerNorm<M> {
    /// As the kernels take it.
    pub(crate) fn view(&self) -> Norm<'_> {
        Norm { gamma: self.gamma.view(), beta: self.beta.view(), eps: self.eps }
    }
}
