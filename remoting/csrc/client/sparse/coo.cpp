// Coalescing, sums, products element by element, and masks of COO tensors.
#include <ATen/ATen.h>
#include <ATen/ExpandUtils.h>

#include <vector>

#include "client/sparse/kernels.h"

namespace elara::client::sparse {

namespace {

using at::Tensor;

// How far apart the places of neighbours along each sparse dimension are.
std::vector<int64_t> place_strides(const Tensor& self) {
  std::vector<int64_t> strides(static_cast<size_t>(self.sparse_dim()), 1);
  for (size_t i = strides.size(); i-- > 1;) {
    strides[i - 1] = strides[i] * self.size(static_cast<int64_t>(i));
  }
  return strides;
}

Tensor indices_at(const Tensor& places, const Tensor& self) {
  const auto strides = place_strides(self);
  std::vector<Tensor> rows;
  for (size_t i = 0; i < strides.size(); ++i) {
    const auto size = std::max<int64_t>(self.size(static_cast<int64_t>(i)), 1);
    rows.push_back(places.div(strides[i], "floor").remainder(size));
  }
  return rows.empty() ? at::empty({0, places.size(0)}, places.options()) : at::stack(rows);
}

Tensor build(const Tensor& like, const Tensor& indices, const Tensor& values, bool coalesced) {
  return at::_sparse_coo_tensor_with_dims_and_tensors(
      like.sparse_dim(), like.dense_dim(), like.sizes(), indices, values,
      values.options().layout(c10::kSparse).device(like.device()), coalesced);
}

// The rows of a sparse tensor's indices, as an index of a dense one.
c10::List<std::optional<Tensor>> index_of(const Tensor& sparse) {
  c10::List<std::optional<Tensor>> index;
  for (const Tensor& row : sparse._indices().unbind(0)) index.push_back(row);
  return index;
}

Tensor coalesce(const Tensor& self) {
  if (self.is_coalesced()) return self;
  if (self._nnz() < 2) return self.clone()._coalesced_(true);
  const auto [places, inverse, counts] = at::_unique2(flat_places(self), /*sorted=*/true, /*return_inverse=*/true);
  const Tensor values = self._values();
  auto sizes = values.sizes().vec();
  sizes[0] = places.size(0);
  Tensor sums = at::zeros(sizes, values.options());
  if (values.numel() != 0) sums.index_put_({inverse}, values, /*accumulate=*/true);
  return build(self, indices_at(places, self), sums, true);
}

Tensor& become(Tensor& out, const Tensor& result) {
  TORCH_CHECK(at::canCast(result.scalar_type(), out.scalar_type()), "result type ", result.scalar_type(),
              " can't be cast to the desired output type ", out.scalar_type());
  const Tensor cast = result.scalar_type() == out.scalar_type() ? result : result.to(out.scalar_type());
  out.sparse_resize_and_clear_(cast.sizes(), cast.sparse_dim(), cast.dense_dim());
  return out.copy_(cast);
}

Tensor& add_to_dense(const Tensor& dense, const Tensor& sparse, const at::Scalar& alpha, Tensor& out) {
  TORCH_CHECK(at::is_expandable_to(sparse.sizes(), dense.sizes()) && sparse.sizes() == dense.sizes(),
              "add: expected 'self' and 'other' to have same size, but self has size ", dense.sizes(),
              " while other has size ", sparse.sizes(),
              " (FYI: dense-sparse addition does not currently support "
              "broadcasting)");
  if (!out.is_same(dense)) {
    out.resize_(dense.sizes());
    out.copy_(dense);
  }
  const Tensor values = sparse._values().to(out.scalar_type());
  if (values.numel() == 0) return out;
  const Tensor scaled = alpha.equal(1) ? values : values.mul(alpha);
  if (sparse.sparse_dim() == 0) return out.add_(scaled.sum(0));
  return out.index_put_(index_of(sparse), scaled, /*accumulate=*/true);
}

Tensor& add_out(const Tensor& self, const Tensor& other, const at::Scalar& alpha, Tensor& out) {
  if (!self.is_sparse()) return add_to_dense(self, other, alpha, out);
  TORCH_CHECK(other.is_sparse(), "add(sparse, dense) is not supported. Use add(dense, sparse) instead.");
  TORCH_CHECK(self.sizes() == other.sizes(), "add: expected sizes of 'self' and 'other' to match, but ", self.sizes(),
              " != ", other.sizes());
  TORCH_CHECK(self.sparse_dim() == other.sparse_dim() && self.dense_dim() == other.dense_dim(),
              "add: expected 'self' and 'other' to have same density, but they have ", self.sparse_dim(), " and ",
              other.sparse_dim(), " sparse dimensions");
  const auto type = at::result_type(self, other);
  Tensor added = other._values().to(type);
  if (!alpha.equal(1)) added = added.mul(alpha);
  const Tensor sum =
      build(self, at::cat({self._indices(), other._indices()}, 1), at::cat({self._values().to(type), added}, 0), false);
  const bool sorted = self.is_coalesced() && other.is_coalesced();
  return become(out, sorted ? coalesce(sum) : sum);
}

Tensor values_at(const Tensor& dense, const Tensor& sparse) {
  if (sparse.sparse_dim() == 0) {
    auto sizes = dense.sizes().vec();
    sizes.insert(sizes.begin(), sparse._nnz());
    return dense.unsqueeze(0).expand(sizes);
  }
  return dense.index(index_of(sparse));
}

Tensor product_of_sparse(const Tensor& self, const Tensor& other) {
  TORCH_CHECK(self.sizes() == other.sizes(), "mul: expected 'self' and 'other' to have same sizes, but ", self.sizes(),
              " != ", other.sizes());
  const Tensor left = self.coalesce(), right = other.coalesce();
  const auto [position, found] = look_up(flat_places(left), flat_places(right));
  return build(left, left._indices().index({at::indexing::Slice(), found}),
               left._values().index({found}).mul(right._values().index({position.index({found})})), true);
}

Tensor& mul_out(const Tensor& self, const Tensor& other, Tensor& out) {
  if (self.is_sparse() && other.is_sparse() && self.dim() != 0 && other.dim() != 0) {
    return become(out, product_of_sparse(self, other));
  }
  const bool swapped = !self.is_sparse() || (self.dim() == 0 && other.dim() != 0);
  const Tensor& sparse = swapped ? other : self;
  Tensor dense = swapped ? self : other;
  if (dense.is_sparse()) dense = dense.to_dense();
  if (dense.dim() == 0) return become(out, with_values(sparse, sparse._values().mul(dense)));
  return become(out, with_values(sparse, sparse._values().mul(values_at(dense.expand(sparse.sizes()), sparse))));
}

Tensor sparse_mask(const Tensor& self, const Tensor& mask) {
  TORCH_CHECK(self.sizes() == mask.sizes(), "sparse_mask(): operands have incompatible sizes; self has size ",
              self.sizes(), " but mask has size ", mask.sizes());
  if (!self.is_sparse()) return with_values(mask, values_at(self, mask).contiguous());
  TORCH_CHECK(self.sparse_dim() == mask.sparse_dim(),
              "sparse_mask(): the numbers of sparse dimensions differ: ", self.sparse_dim(), " and ",
              mask.sparse_dim());
  const Tensor known = self.coalesce();
  auto sizes = mask._values().sizes().vec();
  if (known._nnz() == 0) return with_values(mask, at::zeros(sizes, known._values().options()));
  const auto [position, found] = look_up(flat_places(mask), flat_places(known));
  const Tensor taken = known._values().index_select(0, position);
  std::vector<int64_t> shape(static_cast<size_t>(taken.dim()), 1);
  shape[0] = -1;
  return with_values(mask, taken.masked_fill(found.logical_not().view(shape), 0));
}

// Elements at one place count as one, as they do on the CPU.
Tensor sparse_mask_projection(const Tensor& self, const Tensor& mask, bool) { return sparse_mask(self, mask); }

}  // namespace

Tensor flat_places(const Tensor& self) {
  const Tensor indices = self._indices();
  Tensor places = at::zeros({indices.size(1)}, indices.options());
  const auto strides = place_strides(self);
  for (size_t i = 0; i < strides.size(); ++i) places.add_(indices.select(0, static_cast<int64_t>(i)), strides[i]);
  return places;
}

std::pair<Tensor, Tensor> look_up(const Tensor& places, const Tensor& others) {
  if (others.size(0) == 0) return {at::zeros_like(places), at::zeros_like(places, at::kBool)};
  const Tensor position = at::searchsorted(others, places).clamp_max_(others.size(0) - 1);
  return {position, others.index_select(0, position).eq(places)};
}

Tensor with_values(const Tensor& self, const Tensor& values) {
  return build(self, self._indices(), values, self.is_coalesced());
}

void register_coo(torch::Library& library) {
  library.impl("_coalesce", TORCH_FN(coalesce));
  library.impl("add.out", TORCH_FN(add_out));
  library.impl("mul.out", TORCH_FN(mul_out));
  library.impl("sparse_mask", TORCH_FN(sparse_mask));
  library.impl("_sparse_mask_projection", TORCH_FN(sparse_mask_projection));
}

}  // namespace elara::client::sparse
