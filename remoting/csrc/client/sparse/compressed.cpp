// CSR and its relatives: products and sums by way of COO, and products sampled at a matrix's own places.
#include <ATen/ATen.h>

#include "client/sparse/kernels.h"

namespace elara::client::sparse {

namespace {

using at::Tensor;

bool is_compressed(const Tensor& tensor) { return tensor.layout() != c10::kStrided && tensor.layout() != c10::kSparse; }
Tensor as_coo(const Tensor& tensor) { return is_compressed(tensor) ? tensor.to_sparse() : tensor; }

Tensor& addmm_out(const Tensor& self, const Tensor& left, const Tensor& right, const at::Scalar& beta,
                  const at::Scalar& alpha, Tensor& out) {
  TORCH_CHECK_NOT_IMPLEMENTED(!is_compressed(out),
                              "a sparse result of addmm is not supported on an attached GPU; use "
                              "dense tensors or the CPU");
  if (!is_compressed(right)) {
    add_product(self, as_coo(left), right, beta, alpha, out);
    return out;
  }
  if (!is_compressed(left)) {  // dense @ sparse
    const Tensor turned = beta.equal(0) ? at::zeros({}, left.options()) : self.expand(out.sizes()).t();
    Tensor product = at::empty({0}, left.options());
    add_product(turned, as_coo(right).t(), left.t(), beta, alpha, product);
    out.resize_({product.size(1), product.size(0)});
    return out.copy_(product.t());
  }
  const Tensor product = as_coo(left).mm(as_coo(right)).to_dense().mul(alpha);
  out.resize_(product.sizes());
  return out.copy_(beta.equal(0) ? product : product + self * beta);
}

Tensor& addmv_out(const Tensor& self, const Tensor& matrix, const Tensor& vector, const at::Scalar& beta,
                  const at::Scalar& alpha, Tensor& out) {
  Tensor column = at::empty({0}, vector.options());
  const Tensor added = beta.equal(0) ? at::zeros({}, vector.options()) : self.expand({matrix.size(0)}).unsqueeze(1);
  add_product(added, as_coo(matrix), vector.unsqueeze(1), beta, alpha, column);
  out.resize_({matrix.size(0)});
  return out.copy_(column.squeeze(1));
}

Tensor& add_out(const Tensor& self, const Tensor& other, const at::Scalar& alpha, Tensor& out) {
  if (!is_compressed(self)) {
    const Tensor sum = at::add(self, as_coo(other), alpha);
    out.resize_(sum.sizes());
    return out.copy_(sum);
  }
  TORCH_CHECK(is_compressed(other) && self.layout() == c10::kSparseCsr && other.layout() == c10::kSparseCsr,
              "add: expected two CSR tensors, or a dense and a CSR one, on an attached GPU");
  const Tensor sum = at::add(self.to_sparse(), other.to_sparse(), alpha).coalesce().to_sparse_csr();
  at::resize_as_sparse_(out, sum);
  return out.copy_(sum);
}

// Where the first of two factors is read at all: out = beta * self + alpha * (left @ right), at self's places only.
Tensor sampled_addmm(const Tensor& self, const Tensor& left, const Tensor& right, const at::Scalar& beta,
                     const at::Scalar& alpha) {
  TORCH_CHECK(self.layout() == c10::kSparseCsr && self.dim() == left.dim() && left.dim() == right.dim(),
              "sparse_sampled_addmm: expected a CSR tensor and two dense ones of as many dimensions");
  TORCH_CHECK_NOT_IMPLEMENTED(self.dim() == 2, "sparse_sampled_addmm: batches are not supported on an attached GPU");
  TORCH_CHECK(left.size(1) == right.size(0), "sampled_addmm: mat1 and mat2 shapes cannot be multiplied (", left.size(0),
              "x", left.size(1), " and ", right.size(0), "x", right.size(1), ")");
  TORCH_CHECK(self.size(0) == left.size(0) && self.size(1) == right.size(1),
              "sampled_addmm: the shape of self and that of the product differ");
  const Tensor indices =
      at::_convert_indices_from_csr_to_coo(self.crow_indices(), self.col_indices(), /*out_int32=*/false);
  const Tensor product =
      (left.index_select(0, indices.select(0, 0)) * right.t().index_select(0, indices.select(0, 1))).sum(1).mul(alpha);
  const Tensor values = beta.equal(0) ? product : product + self.values() * beta;
  return at::_sparse_csr_tensor_unsafe(self.crow_indices(), self.col_indices(), values, self.sizes(),
                                       values.options().layout(c10::kSparseCsr));
}

Tensor& sampled_addmm_out(const Tensor& self, const Tensor& left, const Tensor& right, const at::Scalar& beta,
                          const at::Scalar& alpha, Tensor& out) {
  const Tensor result = sampled_addmm(self, left, right, beta, alpha);
  at::resize_as_sparse_(out, result);
  return out.copy_(result);
}

}  // namespace

void register_compressed(torch::Library& library) {
  library.impl("addmm.out", TORCH_FN(addmm_out));
  library.impl("addmv.out", TORCH_FN(addmv_out));
  library.impl("add.out", TORCH_FN(add_out));
  library.impl("sparse_sampled_addmm", TORCH_FN(sampled_addmm));
  library.impl("sparse_sampled_addmm.out", TORCH_FN(sampled_addmm_out));
}

}  // namespace elara::client::sparse
