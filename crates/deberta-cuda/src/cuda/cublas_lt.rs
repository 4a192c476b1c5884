//! Matrix products by cublasLt: out = x·weightᵀ + bias, the bias added in the product's epilogue.
//!
//! cublasLt counts in columns. A row-major [N, O] is a column-major [O, N], so what it is asked for is
//! outᵀ = weight·xᵀ: weight, row-major [O, I], is [I, O] to it and is transposed; x, row-major [N, I], is [I, N] and is
//! not; and the bias, one number a row of outᵀ, is one number a column of ours.
//!
//! Numerics: sums are in `f32` throughout. `f32` is [`CUBLAS_COMPUTE_32F`](cublasComputeType_t), which never rounds its
//! inputs; TF32 is asked for by name. There is no GELU here: cublasLt's is the tanh approximation.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::c_void;

use cudarc::cublaslt::result::{self, CublasError};
use cudarc::cublaslt::sys::{
    self, cublasComputeType_t, cublasLtEpilogue_t, cublasLtMatmulAlgo_t, cublasLtMatmulDescAttributes_t as Attribute,
    cublasLtMatmulPreferenceAttributes_t as Preference, cudaDataType_t,
};
use cudarc::driver::sys::CUstream;

use crate::device::{Gemm, Matrix, Precision};
use crate::error::CudaError;

/// The library, a scratch memory for it, and what it advised for products of each shape.
pub(super) struct CublasLt {
    handle: sys::cublasLtHandle_t,
    workspace: (u64, usize),
    plans: RefCell<HashMap<Shape, Option<Plan>>>,
}

/// What a product's algorithm depends on.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Shape {
    precision: Precision,
    rows: usize,
    inputs: usize,
    outputs: usize,
    strides: [usize; 3],
    /// The largest powers of two, up to 16 bytes, that the three addresses and the bias are multiples of.
    alignments: [u32; 4],
    bias: bool,
}

struct Plan {
    description: sys::cublasLtMatmulDesc_t,
    weight: sys::cublasLtMatrixLayout_t,
    x: sys::cublasLtMatrixLayout_t,
    out: sys::cublasLtMatrixLayout_t,
    algorithm: cublasLtMatmulAlgo_t,
}

impl CublasLt {
    /// `workspace` is memory of the device, alive as long as this is.
    pub(super) fn new(workspace: (u64, usize)) -> Result<Self, CudaError> {
        let handle = result::create_handle().map_err(failed("cublasLtCreate"))?;
        Ok(Self { handle, workspace, plans: RefCell::default() })
    }

    /// Computes the product on `stream`, or returns `false` where the library has no algorithm for its shape.
    ///
    /// # Safety
    /// The matrices are memory of the stream's context, alive until the stream has got there.
    pub(super) unsafe fn product(&self, gemm: &Gemm<'_>, stream: CUstream) -> Result<bool, CudaError> {
        let shape = Shape::of(gemm);
        let mut plans = self.plans.borrow_mut();
        let bias = gemm.bias.as_ref().map(Matrix::address);
        let new = || Plan::new(self.handle, self.workspace.1, &shape, bias).ok();
        let Some(plan) = plans.entry(shape).or_insert_with(new) else {
            return Ok(false);
        };
        let (one, zero) = (1.0_f32, 0.0_f32);
        let pointer = |address: u64| address as *mut c_void;
        // SAFETY: the layouts describe the matrices, the scalars are of the scale type, and the workspace is of the size
        // that the heuristic was told; the caller answers for the memory.
        let done = unsafe {
            if let Some(address) = bias {
                set(plan.description, Attribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &address)
                    .map_err(failed("cublasLtMatmulDescSetAttribute"))?;
            }
            result::matmul(
                self.handle,
                plan.description,
                (&raw const one).cast(),
                (&raw const zero).cast(),
                pointer(gemm.weight.address()),
                plan.weight,
                pointer(gemm.x.address()),
                plan.x,
                pointer(gemm.out.address()),
                plan.out,
                pointer(gemm.out.address()),
                plan.out,
                &plan.algorithm,
                pointer(self.workspace.0),
                self.workspace.1,
                stream.cast(),
            )
        };
        if matches!(done, Err(CublasError(sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED))) {
            plans.insert(shape, None);
            return Ok(false);
        }
        done.map_err(failed("cublasLtMatmul")).map(|()| true)
    }
}

impl Drop for CublasLt {
    fn drop(&mut self) {
        self.plans.borrow_mut().clear();
        // SAFETY: the handle is alive, and nothing uses it after this. What cannot be freed is left.
        let _ = unsafe { result::destroy_handle(self.handle) };
    }
}

impl Shape {
    fn of(gemm: &Gemm<'_>) -> Self {
        let alignment = |address: u64| 1 << address.trailing_zeros().min(4);
        Self {
            precision: gemm.precision,
            rows: gemm.out.rows(),
            inputs: gemm.x.columns(),
            outputs: gemm.out.columns(),
            strides: [gemm.weight.stride(), gemm.x.stride(), gemm.out.stride()],
            alignments: [
                alignment(gemm.weight.address()),
                alignment(gemm.x.address()),
                alignment(gemm.out.address()),
                gemm.bias.as_ref().map_or(16, |bias| alignment(bias.address())),
            ],
            bias: gemm.bias.is_some(),
        }
    }
}

impl Plan {
    /// `bias` is one of the shape's alignment: it is asked for with its address, as that may rule algorithms out.
    fn new(
        handle: sys::cublasLtHandle_t,
        workspace: usize,
        shape: &Shape,
        bias: Option<u64>,
    ) -> Result<Self, CublasError> {
        let (storage, compute) = types(shape.precision);
        let layout = |rows: usize, columns: usize, stride: usize| {
            result::create_matrix_layout(storage, rows as u64, columns as u64, stride as i64)
        };
        let [of_weight, of_x, of_out] = shape.strides;
        let description = result::create_matmul_desc(compute, cudaDataType_t::CUDA_R_32F)?;
        let weight = layout(shape.inputs, shape.outputs, of_weight)?;
        let x = layout(shape.inputs, shape.rows, of_x)?;
        let out = layout(shape.outputs, shape.rows, of_out)?;
        // SAFETY: every attribute is given in the type that it has.
        unsafe {
            set(description, Attribute::CUBLASLT_MATMUL_DESC_TRANSA, &1_i32)?;
            let epilogue = if let Some(address) = bias {
                set(description, Attribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &address)?;
                cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS
            } else {
                cublasLtEpilogue_t::CUBLASLT_EPILOGUE_DEFAULT
            };
            set(description, Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue)?;
            let preference = result::create_matmul_pref()?;
            let prefer =
                |what, value: *const c_void, size| result::set_matmul_pref_attribute(preference, what, value, size);
            prefer(
                Preference::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                (&raw const workspace).cast(),
                size_of::<usize>(),
            )?;
            let aligned = [
                Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
                Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
                Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
            ];
            let [weight_at, x_at, out_at, _] = shape.alignments;
            for (what, at) in aligned.into_iter().zip([weight_at, x_at, out_at, out_at]) {
                prefer(what, (&raw const at).cast(), size_of::<u32>())?;
            }
            let found = result::get_matmul_algo_heuristic(handle, description, weight, x, out, out, preference);
            result::destroy_matmul_pref(preference)?;
            Ok(Self { description, weight, x, out, algorithm: found?.algo })
        }
    }
}

impl Drop for Plan {
    fn drop(&mut self) {
        // SAFETY: each was created with the plan and is used by it alone. What cannot be freed is left.
        unsafe {
            let _ = result::destroy_matmul_desc(self.description);
            for layout in [self.weight, self.x, self.out] {
                let _ = result::destroy_matrix_layout(layout);
            }
        }
    }
}

/// The storage type and the arithmetic of a precision.
fn types(precision: Precision) -> (cudaDataType_t, cublasComputeType_t) {
    match precision {
        Precision::F32 => (cudaDataType_t::CUDA_R_32F, cublasComputeType_t::CUBLAS_COMPUTE_32F),
        Precision::Tf32 => (cudaDataType_t::CUDA_R_32F, cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32),
        Precision::F16 => (cudaDataType_t::CUDA_R_16F, cublasComputeType_t::CUBLAS_COMPUTE_32F),
        Precision::Bf16 => (cudaDataType_t::CUDA_R_16BF, cublasComputeType_t::CUBLAS_COMPUTE_32F),
    }
}

/// # Safety
/// `value` is of the type that `attribute` has.
unsafe fn set<T>(description: sys::cublasLtMatmulDesc_t, attribute: Attribute, value: &T) -> Result<(), CublasError> {
    // SAFETY: the description is alive, and the size is that of the value.
    unsafe {
        result::set_matmul_desc_attribute(description, attribute, std::ptr::from_ref(value).cast(), size_of::<T>())
    }
}

fn failed(call: &'static str) -> impl FnOnce(CublasError) -> CudaError {
    move |error| CudaError::Call { call, said: format!("{:?}", error.0) }
}
