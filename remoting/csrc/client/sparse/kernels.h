// Sparse tensors (COO, CSR and its relatives) of an attached GPU: their indices and values are ordinary tensors there,
// and what is done to them is composed of ordinary operators. Nothing about them is on the wire.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/library.h>

namespace elara::client::sparse {

// Everything below at the dispatch keys SparseCUDA and SparseCsrCUDA, and a sentence for what is not there.
void register_kernels();

void register_coo(torch::Library& library);
void register_products(torch::Library& library);
void register_compressed(torch::Library& library);

// One number for each element of a COO tensor: its place along the sparse dimensions.
at::Tensor flat_places(const at::Tensor& self);
// Each of the sorted, unique `places` that is among the sorted, unique `others`, and where: (positions, found).
std::pair<at::Tensor, at::Tensor> look_up(const at::Tensor& places, const at::Tensor& others);
// `self` in the COO layout with `values` in place of its own.
at::Tensor with_values(const at::Tensor& self, const at::Tensor& values);
// out = beta * self + alpha * (sparse @ dense), for a COO matrix `sparse` with scalar values.
void add_product(const at::Tensor& self, const at::Tensor& sparse, const at::Tensor& dense, const at::Scalar& beta,
                 const at::Scalar& alpha, at::Tensor& out);

}  // namespace elara::client::sparse
