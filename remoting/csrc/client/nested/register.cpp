// Most operators of nested tensors are one function for the CPU and for CUDA, which works on the buffer or piece by
// piece (client/dispatch/shared.h). Those with kernels of their own are composed here: layers of a transformer, which
// torch.nn.TransformerEncoder nests by itself when it is given a padding mask, are computed padded.
#include <ATen/ATen.h>
#include <ATen/NestedTensorImpl.h>
#include <ATen/WrapDimUtils.h>
#include <ATen/native/transformers/sdp_utils_cpp.h>

#include <vector>

#include "client/dispatch/shared.h"
#include "client/nested/kernels.h"

namespace elara::client::nested {

namespace {

using at::Tensor;
using c10::DispatchKey;
using OptionalTensor = std::optional<Tensor>;

constexpr auto kFrom = DispatchKey::NestedTensorCPU;

// Of a mask: which places of the keys are padding, as at::masked_softmax numbers its kinds.
constexpr int64_t kPaddingMask = 1;

const at::native::NestedTensorImpl& pieces_of(const Tensor& nested) {
  return *at::native::get_nested_tensor_impl(nested);
}

Tensor buffer_of(const Tensor& nested) { return pieces_of(nested.contiguous()).get_buffer(); }

Tensor like(const Tensor& nested, const Tensor& buffer) {
  return at::detail::make_tensor<at::native::NestedTensorImpl>(buffer.reshape(-1),
                                                               pieces_of(nested).get_nested_sizes());
}

struct Padded {
  explicit Padded(const Tensor& nested)
      : values(nested.to_padded_tensor(0.0)), sizes(pieces_of(nested).get_nested_sizes()) {}

  // Bool [pieces, longest piece]: what is not of a piece.
  Tensor mask() const {
    const Tensor lengths = sizes.select(1, 0).unsqueeze(1);
    return at::arange(values.size(1), sizes.options()).ge(lengths).to(values.device());
  }
  Tensor nest(const Tensor& padded) const { return at::_nested_from_padded(padded, sizes); }

  Tensor values;
  Tensor sizes;  // int64 on the CPU, [pieces, dimensions of a piece]
};

std::tuple<Tensor, Tensor> attention(const Tensor& query, const Tensor& key, const Tensor& value, int64_t width,
                                     int64_t heads, const Tensor& qkv_weight, const Tensor& qkv_bias,
                                     const Tensor& out_weight, const Tensor& out_bias, const OptionalTensor& mask,
                                     bool wants_weights, bool averages, std::optional<int64_t>) {
  TORCH_CHECK(!mask.has_value() || !mask->defined(), "NestedTensor with mask is not supported yet");
  const Padded queries(query);
  const Padded keys(key);
  const Padded values(value);
  const auto [out, weights] = at::_native_multi_head_attention(
      queries.values, query.is_same(key) ? queries.values : keys.values,
      query.is_same(value) ? queries.values : values.values, width, heads, qkv_weight, qkv_bias, out_weight, out_bias,
      keys.mask(), wants_weights, averages, kPaddingMask);
  return {queries.nest(out), weights};
}

Tensor encoder_layer(const Tensor& source, int64_t width, int64_t heads, const Tensor& qkv_weight,
                     const Tensor& qkv_bias, const Tensor& out_weight, const Tensor& out_bias, bool gelu,
                     bool norm_first, double epsilon, const Tensor& norm_weight_1, const Tensor& norm_bias_1,
                     const Tensor& norm_weight_2, const Tensor& norm_bias_2, const Tensor& weight_1,
                     const Tensor& bias_1, const Tensor& weight_2, const Tensor& bias_2, const OptionalTensor& mask,
                     std::optional<int64_t>) {
  TORCH_CHECK(!mask.has_value() || !mask->defined(), "NestedTensor with mask is not supported yet");
  const Padded padded(source);
  return padded.nest(at::_transformer_encoder_layer_fwd(
      padded.values, width, heads, qkv_weight, qkv_bias, out_weight, out_bias, gelu, norm_first, epsilon, norm_weight_1,
      norm_bias_1, norm_weight_2, norm_bias_2, weight_1, bias_1, weight_2, bias_2, padded.mask(), kPaddingMask));
}

int64_t normalized_size(at::IntArrayRef shape) {
  TORCH_CHECK(shape.size() == 1, "a nested tensor is normalized over its last dimension only");
  return shape[0];
}

std::tuple<Tensor, Tensor, Tensor> layer_norm(const Tensor& input, at::IntArrayRef shape, const OptionalTensor& weight,
                                              const OptionalTensor& bias, double epsilon) {
  const auto rows = buffer_of(input).view({-1, normalized_size(shape)});
  const auto [out, mean, deviation] = at::native_layer_norm(rows, shape, weight, bias, epsilon);
  return {like(input, out), mean, deviation};
}

std::tuple<Tensor, Tensor, Tensor> layer_norm_backward(const Tensor& gradient, const Tensor& input,
                                                       at::IntArrayRef shape, const Tensor& mean,
                                                       const Tensor& deviation, const OptionalTensor& weight,
                                                       const OptionalTensor& bias, std::array<bool, 3> wanted) {
  const int64_t size = normalized_size(shape);
  auto [of_input, of_weight, of_bias] =
      at::native_layer_norm_backward(buffer_of(gradient).view({-1, size}), buffer_of(input).view({-1, size}), shape,
                                     mean, deviation, weight, bias, wanted);
  return {of_input.defined() ? like(input, of_input) : of_input, of_weight, of_bias};
}

// Over the last dimension, which stays: natively no other sum of a nested tensor is.
Tensor sum(const Tensor& self, at::OptionalIntArrayRef dimensions, bool keeps, std::optional<at::ScalarType> type) {
  TORCH_CHECK(dimensions.has_value() && dimensions->size() == 1 && keeps &&
                  at::maybe_wrap_dim((*dimensions)[0], self.dim()) == self.dim() - 1,
              "a nested tensor is summed over its last dimension only, with keepdim=True");
  std::vector<Tensor> sums;
  for (const Tensor& piece : self.unbind()) sums.push_back(piece.sum(-1, true, type).reshape(-1));
  Tensor sizes = pieces_of(self).get_nested_sizes().clone();
  if (sums.empty()) return self.clone();
  sizes.select(1, -1).fill_(1);
  return at::detail::make_tensor<at::native::NestedTensorImpl>(at::cat(sums), sizes);
}

Tensor sum_backward(const Tensor& gradient, const Tensor& self, at::OptionalIntArrayRef, bool) {
  const auto pieces = self.unbind();
  const auto gradients = gradient.unbind();
  std::vector<Tensor> parts;
  for (size_t i = 0; i < pieces.size(); ++i) parts.push_back(gradients[i].expand_as(pieces[i]).reshape(-1));
  return parts.empty() ? gradient.clone() : like(self, at::cat(parts));
}

int64_t choose_attention(const Tensor&, const Tensor&, const Tensor&, const OptionalTensor&, double, bool,
                         std::optional<double>, bool) {
  return static_cast<int64_t>(sdp::SDPBackend::math);
}

}  // namespace

void register_conversion() { adopt_kernel(library_for(DispatchKey::NestedTensorCUDA, "aten"), "_to_copy", "", kFrom); }

void register_kernels() {
  refuse_others(kFrom, DispatchKey::NestedTensorCUDA, "nested tensors of the layout torch.strided",
                "use layout=torch.jagged, a padded tensor (tensor.to_padded_tensor(0)) or the CPU (tensor.cpu())");
  torch::Library& library = library_for(DispatchKey::NestedTensorCUDA, "aten");
  library.impl("_native_multi_head_attention", &attention);
  library.impl("_transformer_encoder_layer_fwd", &encoder_layer);
  library.impl("native_layer_norm", &layer_norm);
  library.impl("native_layer_norm_backward", &layer_norm_backward);
  library.impl("_fused_sdp_choice", &choose_attention);
  library.impl("sum.dim_IntList", &sum);
  library.impl("_nested_sum_backward", &sum_backward);
  // Written for any device, though CUDA has faster ones.
  adopt_kernel(library, "bmm", "", kFrom);
  adopt_kernel(library, "to_padded_tensor", "", kFrom);
  register_shared(library, kFrom, DispatchKey::NestedTensorCUDA);
  adopt_kernel(library_for(DispatchKey::CUDA, "aten"), "_nested_from_padded", "", DispatchKey::CPU);
}

}  // namespace elara::client::nested
