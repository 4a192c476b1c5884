//! sum = word + position + type, and LayerNorm(sum) · exists (`kernels/embeddings.cu`).

use crate::device::{Arg, Array, Device, Matrix};
use crate::error::CudaError;
use crate::ops::{Norm, Ops, array, array_or_null, int, pointer};
use crate::source::File;

/// Where the rows that are summed come from.
#[derive(Clone, Copy, Debug)]
pub struct Embed<'m> {
    /// [V, E′], or, without `ids`, a row a token.
    pub word: Matrix<'m>,
    /// The tokens, \[N\].
    pub ids: Option<Array<'m, i32>>,
    /// A row of the table for each token, \[N\], and the table.
    pub positions: Option<(Array<'m, i32>, Matrix<'m>)>,
    /// A row of the table for each token, \[N\], and the table.
    pub types: Option<(Array<'m, i32>, Matrix<'m>)>,
}

impl Embed<'_> {
    fn tables(&self, rows: usize, width: usize) -> [Arg; 6] {
        assert_eq!(self.word.columns(), width, "the width of words");
        assert!(self.ids.is_some() || self.word.rows() == rows, "without ids, every token has a row");
        let table = |name: &str, table: &Option<(Array<'_, i32>, Matrix<'_>)>| match table {
            Some((ids, table)) => {
                assert_eq!((table.columns(), table.stride()), (width, width), "the table of {name}");
                [array(name, ids, rows), pointer(table)]
            }
            None => [Arg::Pointer(0); 2],
        };
        let ([position_ids, position], [type_ids, types]) =
            (table("positions", &self.positions), table("types", &self.types));
        let ids = array_or_null("ids", self.ids.as_ref(), rows);
        [ids, pointer(&self.word), position_ids, position, type_ids, types]
    }
}

impl<D: Device> Ops<'_, D> {
    /// # Shapes
    /// `out` [N, E]; `exists` \[N\].
    ///
    /// # Errors
    /// See [`CudaError`].
    pub fn embed_layer_norm(
        &self,
        out: &Matrix<'_>,
        embed: &Embed<'_>,
        norm: &Norm<'_>,
        exists: Option<&Array<'_, u8>>,
    ) -> Result<(), CudaError> {
        let (rows, width) = (out.rows(), out.columns());
        let mut arguments = vec![pointer(out)];
        arguments.extend(embed.tables(rows, width));
        arguments.extend([array("gamma", &norm.gamma, width), array("beta", &norm.beta, width)]);
        arguments.push(array_or_null("exists", exists, rows));
        arguments.extend([int(embed.word.stride()), int(out.stride()), int(width), Arg::Float(norm.eps)]);
        self.launch_rows(File::Embeddings, "embed_layer_norm", rows, Some(self.row_floats(width)), &arguments)
    }

    /// # Shapes
    /// `out` [N, E′].
    ///
    /// # Errors
    /// See [`CudaError`].
    pub fn embed_sum(&self, out: &Matrix<'_>, embed: &Embed<'_>) -> Result<(), CudaError> {
        let (rows, width) = (out.rows(), out.columns());
        let mut arguments = vec![pointer(out)];
        arguments.extend(embed.tables(rows, width));
        arguments.extend([int(embed.word.stride()), int(out.stride()), int(width)]);
        self.launch_rows(File::Embeddings, "embed_sum", rows, None, &arguments)
    }
}
