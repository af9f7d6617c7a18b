// Matrix products with a COO matrix.
#include <ATen/ATen.h>

#include "client/sparse/kernels.h"

namespace elara::client::sparse {

namespace {

using at::Tensor;

Tensor& addmm_out(const Tensor& self, const Tensor& sparse, const Tensor& dense, const at::Scalar& beta,
                  const at::Scalar& alpha, Tensor& out) {
  add_product(self, sparse, dense, beta, alpha, out);
  return out;
}

Tensor addmm(const Tensor& self, const Tensor& sparse, const Tensor& dense, const at::Scalar& beta,
             const at::Scalar& alpha) {
  Tensor out = at::empty({0}, dense.options());
  add_product(self, sparse, dense, beta, alpha, out);
  return out;
}

Tensor& addmm_(Tensor& self, const Tensor& sparse, const Tensor& dense, const at::Scalar& beta,
               const at::Scalar& alpha) {
  Tensor out = at::empty({0}, dense.options());
  add_product(self, sparse, dense, beta, alpha, out);
  return self.copy_(out);
}

// Every element of the left matrix meets the row of the right one that its column names.
Tensor product_of_sparse(const Tensor& self, const Tensor& other) {
  TORCH_CHECK(self.dim() == 2 && other.dim() == 2 && self.dense_dim() == 0 && other.dense_dim() == 0,
              "sparse matmul: expected two matrices of scalar values");
  TORCH_CHECK(self.size(1) == other.size(0), "mat1 and mat2 shapes cannot be multiplied (", self.size(0), "x",
              self.size(1), " and ", other.size(0), "x", other.size(1), ")");
  const Tensor left = self.coalesce(), right = other.coalesce();
  const Tensor columns = left._indices().select(0, 1), rows = right._indices().select(0, 0);
  const Tensor in_row = at::zeros({other.size(0)}, rows.options()).index_add_(0, rows, at::ones_like(rows));
  const Tensor begins = in_row.cumsum(0) - in_row;
  const Tensor meets = in_row.index_select(0, columns);
  const Tensor of_left = at::repeat_interleave(meets);
  const Tensor since = at::arange(of_left.size(0), of_left.options()) - (meets.cumsum(0) - meets).index({of_left});
  const Tensor of_right = begins.index({columns.index({of_left})}) + since;
  const Tensor indices =
      at::stack({left._indices().select(0, 0).index({of_left}), right._indices().select(0, 1).index({of_right})});
  const Tensor values = left._values().index({of_left}).mul(right._values().index({of_right}));
  return at::sparse_coo_tensor(indices, values, {self.size(0), other.size(1)}).coalesce();
}

}  // namespace

void add_product(const Tensor& self, const Tensor& sparse, const Tensor& dense, const at::Scalar& beta,
                 const at::Scalar& alpha, Tensor& out) {
  TORCH_CHECK(sparse.is_sparse() && !dense.is_sparse(),
              "addmm: expected a sparse first matrix and a dense second one on an attached GPU");
  TORCH_CHECK(sparse.sparse_dim() == 2 && sparse.dense_dim() == 0, "addmm: matrices expected, got ", sparse.dim(),
              "D tensor with ", sparse.sparse_dim(), " sparse dimensions");
  TORCH_CHECK(dense.dim() == 2, "addmm: matrices expected, got ", dense.dim(), "D tensor");
  TORCH_CHECK(sparse.size(1) == dense.size(0), "addmm: Argument #3 (dense): Expected dim 0 size ", sparse.size(1),
              ", got ", dense.size(0));
  const Tensor indices = sparse._indices();
  Tensor sum = at::zeros({sparse.size(0), dense.size(1)}, dense.options());
  if (sparse._nnz() != 0) {
    const Tensor products = sparse._values().unsqueeze(1) * dense.index_select(0, indices.select(0, 1));
    sum.index_add_(0, indices.select(0, 0), products, alpha);
  }
  // As in every addmm, what is multiplied by nothing is not read: it may hold NaN.
  if (!beta.equal(0)) sum.add_(self, beta);
  out.resize_(sum.sizes());
  out.copy_(sum);
}

void register_products(torch::Library& library) {
  library.impl("addmm", TORCH_FN(addmm));
  library.impl("addmm.out", TORCH_FN(addmm_out));
  library.impl("addmm_", TORCH_FN(addmm_));
  library.impl("_sparse_sparse_matmul", TORCH_FN(product_of_sparse));
}

}  // namespace elara::client::sparse
