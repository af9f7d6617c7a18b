#include "server/argument_checks.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <string>
#include <unordered_map>
#include <vector>

namespace elara::server {

namespace {

using Arguments = torch::jit::Stack;
using at::Tensor;

Tensor tensor_or_none(const c10::IValue& value) { return value.isTensor() ? value.toTensor() : Tensor(); }

// Every element of an index tensor lies in [least, bound).
void check_indices(const c10::IValue& value, int64_t least, int64_t bound, const char* what) {
  const Tensor indices = tensor_or_none(value);
  if (!indices.defined() || indices.numel() == 0) return;
  TORCH_CHECK_TYPE(at::isIntegralType(indices.scalar_type(), /*includeBool=*/false), what, " must be integers");
  const auto [low, high] = at::aminmax(indices);
  TORCH_CHECK_INDEX(low.item<int64_t>() >= least && high.item<int64_t>() < bound, what, " out of range: from ",
                    low.item<int64_t>(), " to ", high.item<int64_t>(), " where ", least, " to ", bound - 1,
                    " was expected");
}

// The tensor is missing, or has so many elements.
void check_count(const c10::IValue& value, int64_t count, const char* what) {
  const Tensor tensor = tensor_or_none(value);
  TORCH_CHECK(!tensor.defined() || tensor.numel() == count, what, " has ", tensor.numel(), " elements where ", count,
              " were expected");
}

void check_same_shape(const c10::IValue& value, const Tensor& other, const char* what) {
  const Tensor tensor = tensor_or_none(value);
  TORCH_CHECK(!tensor.defined() || tensor.sizes() == other.sizes(), what, " has shape ", tensor.sizes(), " where ",
              other.sizes(), " was expected");
}

int64_t product_of_last(const Tensor& tensor, int64_t dimensions) {
  TORCH_CHECK(tensor.dim() >= dimensions, "expected a tensor of at least ", dimensions, " dimensions");
  int64_t product = 1;
  for (int64_t i = 1; i <= dimensions; ++i) product *= tensor.size(-i);
  return product;
}

// ---- indices that a forward kernel made

void embedding_backward(const Arguments& a) { check_indices(a[1], 0, a[2].toInt(), "indices"); }

// A maximum that nothing was found for is -1, where the kernel knows of it.
template <size_t kIndices, int64_t kDimensions, int64_t kLeast>
void pool_backward(const Arguments& a) {
  check_indices(a[kIndices], kLeast, product_of_last(a[1].toTensor(), kDimensions), "indices");
}

void embedding_bag(const Arguments& a) {
  const Tensor weight = a[0].toTensor();
  TORCH_CHECK(weight.dim() == 2, "weight must have two dimensions");
  check_indices(a[1], 0, weight.size(0), "indices");
  check_indices(a[2], 0, a[1].toTensor().numel() + 1, "offsets");
}

void embedding_bag_backward(const Arguments& a) {  // grad, indices, offsets, offset2bag, bag_size, maximum_indices, n
  const Tensor grad = a[0].toTensor();
  TORCH_CHECK(grad.dim() == 2, "grad must have two dimensions");
  check_indices(a[1], 0, a[6].toInt(), "indices");
  check_indices(a[3], 0, grad.size(0), "offset2bag");
  check_indices(a[5], -1, a[6].toInt(), "maximum_indices");
}

void embedding_bag_dense_backward(const Arguments& a) {  // grad, indices, offset2bag, bag_size, maximum_indices, n
  const Tensor grad = a[0].toTensor();
  TORCH_CHECK(grad.dim() == 2, "grad must have two dimensions");
  check_indices(a[1], 0, a[5].toInt(), "indices");
  check_indices(a[2], 0, grad.size(0), "offset2bag");
  check_indices(a[4], -1, a[5].toInt(), "maximum_indices");
}

void embedding_bag_weights_backward(const Arguments& a) {  // grad, weight, indices, offsets, offset2bag
  TORCH_CHECK(a[0].toTensor().dim() == 2 && a[1].toTensor().dim() == 2, "grad and weight must have two dimensions");
  check_indices(a[2], 0, a[1].toTensor().size(0), "indices");
  check_indices(a[4], 0, a[0].toTensor().size(0), "offset2bag");
}

// ---- CTC: targets are classes, lengths are of what lies in memory

std::vector<int64_t> lengths_of(const c10::IValue& value) {
  if (value.isIntList()) return value.toIntVector();
  const Tensor lengths = value.toTensor().to(at::kLong).contiguous();
  const auto* data = lengths.const_data_ptr<int64_t>();
  return {data, data + lengths.numel()};
}

void check_ctc(const Arguments& a, size_t first, int64_t blank) {
  const Tensor log_probs = a[first].toTensor();
  const Tensor targets = a[first + 1].toTensor();
  TORCH_CHECK(log_probs.dim() == 3 && (targets.dim() == 1 || targets.dim() == 2),
              "log_probs must have three dimensions, targets one or two");
  const int64_t most = log_probs.size(0), batch = log_probs.size(1), classes = log_probs.size(2);
  TORCH_CHECK(0 <= blank && blank < classes, "blank must be in label range");
  const auto inputs = lengths_of(a[first + 2]);
  const auto lengths = lengths_of(a[first + 3]);
  TORCH_CHECK(static_cast<int64_t>(inputs.size()) == batch && static_cast<int64_t>(lengths.size()) == batch,
              "input_lengths and target_lengths must be of size batch_size");
  TORCH_CHECK(targets.dim() == 1 || targets.size(0) == batch, "Expected one row of targets for each of the batch");
  int64_t sum = 0;
  for (int64_t i = 0; i < batch; ++i) {
    TORCH_CHECK(0 <= inputs[i] && inputs[i] <= most, "Expected input_lengths to have values of at most ", most);
    const int64_t room = targets.dim() == 2 ? targets.size(1) : targets.size(0) - sum;
    TORCH_CHECK(0 <= lengths[i] && lengths[i] <= room, "Expected target_lengths to fit the targets");
    // What pads a row is not looked at, and may be anything.
    if (targets.dim() == 2) check_indices(targets[i].narrow(0, 0, lengths[i]), 0, classes, "targets");
    sum += lengths[i];
  }
  if (targets.dim() == 1) check_indices(targets.narrow(0, 0, sum), 0, classes, "targets");
}

void ctc_loss(const Arguments& a) { check_ctc(a, 0, a[4].toInt()); }

void ctc_loss_backward(const Arguments& a) {  // grad, log_probs, targets, lengths, lengths, losses, log_alpha, blank
  check_ctc(a, 1, a[7].toInt());
  const Tensor log_probs = a[1].toTensor();
  const Tensor log_alpha = a[6].toTensor();
  check_count(a[0], log_probs.size(1), "grad");
  check_count(a[5], log_probs.size(1), "neg_log_likelihood");
  int64_t longest = 0;
  for (const int64_t length : lengths_of(a[4])) longest = std::max(longest, length);
  TORCH_CHECK(log_alpha.dim() == 3 && log_alpha.size(0) == log_probs.size(1) &&
                  log_alpha.size(1) == log_probs.size(0) && log_alpha.size(2) >= 2 * longest + 1,
              "log_alpha has another shape than the losses were computed with");
}

// ---- segments

void check_segments(const Tensor& data, const c10::IValue& lengths_value, const c10::IValue& offsets_value,
                    int64_t axis) {
  TORCH_CHECK(0 <= axis && axis < data.dim(), "axis is out of range");
  const Tensor lengths = tensor_or_none(lengths_value);
  if (lengths.defined() && lengths.numel() != 0) {
    check_indices(lengths, 0, data.size(axis) + 1, "lengths");
    TORCH_CHECK(lengths.sum(-1).max().item<int64_t>() <= data.size(axis), "lengths exceed the data");
  }
  const Tensor offsets = tensor_or_none(offsets_value);
  if (offsets.defined() && offsets.numel() != 0) {
    check_indices(offsets, 0, data.size(axis) + 1, "offsets");
    TORCH_CHECK(offsets.diff().ge(0).all().item<bool>(), "offsets must not decrease");
  }
  for (const Tensor& segments : {lengths, offsets}) {
    if (!segments.defined()) continue;
    TORCH_CHECK(segments.dim() == axis + 1 && segments.sizes().slice(0, static_cast<size_t>(axis)) ==
                                                  data.sizes().slice(0, static_cast<size_t>(axis)),
                "segments must have the data's sizes in front of the axis");
  }
}

void segment_reduce(const Arguments& a) {  // data, reduce, lengths, indices, offsets, axis
  const Tensor data = a[0].toTensor();
  check_segments(data, a[2], a[4], at::maybe_wrap_dim(a[5].toInt(), data.dim()));
}

void segment_reduce_backward(const Arguments& a) {  // grad, output, data, reduce, lengths, offsets, axis
  const Tensor data = a[2].toTensor();
  const int64_t axis = at::maybe_wrap_dim(a[6].toInt(), data.dim());
  check_segments(data, a[4], a[5], axis);
  const Tensor lengths = tensor_or_none(a[4]);
  const Tensor segments = lengths.defined() ? lengths : tensor_or_none(a[5]);
  TORCH_CHECK(segments.defined(), "either lengths or offsets must be given");
  auto sizes = data.sizes().vec();
  sizes[static_cast<size_t>(axis)] = segments.size(axis) - (lengths.defined() ? 0 : 1);
  check_same_shape(a[1], a[0].toTensor(), "output");
  TORCH_CHECK(a[0].toTensor().sizes() == at::IntArrayRef(sizes), "grad has another shape than the segments give");
}

// ---- linear algebra: LAPACK swaps rows as the pivots say

void lu_solve(const Arguments& a) {
  const Tensor lu = a[0].toTensor();
  check_indices(a[1], 1, product_of_last(lu, 1) + 1, "pivots");
}

void ldl_solve(const Arguments& a) {
  const int64_t size = product_of_last(a[0].toTensor(), 1);
  const Tensor pivots = a[1].toTensor().to(at::kLong).contiguous();
  check_indices(pivots, -size, size + 1, "pivots");
  // A negative pivot stands for a block of two rows, and both have it.
  const auto* data = pivots.const_data_ptr<int64_t>();
  for (int64_t start = 0; size != 0 && start + size <= pivots.numel(); start += size) {
    for (int64_t i = start; i < start + size; ++i) {
      TORCH_CHECK_INDEX(data[i] != 0, "pivots out of range: 0");
      if (data[i] > 0) continue;
      TORCH_CHECK_INDEX(i + 1 < start + size && data[i + 1] == data[i], "pivots out of range: half of a block");
      ++i;
    }
  }
}

// ---- compressed indices

void coo_to_csr(const Arguments& a) { check_indices(a[0], 0, a[1].toInt(), "indices"); }

void csr_to_coo(const Arguments& a) {
  const Tensor compressed = a[0].toTensor();
  check_indices(compressed, 0, a[1].toTensor().size(-1) + 1, "compressed indices");
  TORCH_CHECK_INDEX(compressed.size(-1) != 0 && compressed.diff().ge(0).all().item<bool>(),
                    "compressed indices must not decrease");
  const int64_t batches = compressed.numel() / compressed.size(-1);
  TORCH_CHECK(a[1].toTensor().numel() == batches * a[1].toTensor().size(-1), "indices of another batch");
}

// ---- fused optimizers: parameters and their states are walked as memory of one length and type

template <size_t kLists>
void optimizer(const Arguments& a) {
  const auto parameters = a[0].toTensorVector();
  for (size_t list = 0; list < kLists; ++list) {
    const auto tensors = a[list].toTensorVector();
    if (list != 0 && tensors.empty()) continue;
    TORCH_CHECK(tensors.size() == parameters.size(), "an optimizer's lists must be of one length");
    for (size_t i = 0; i < tensors.size(); ++i) {
      TORCH_CHECK(tensors[i].sizes() == parameters[i].sizes() &&
                      tensors[i].scalar_type() == parameters[i].scalar_type() &&
                      tensors[i].is_non_overlapping_and_dense(),
                  "an optimizer's states must have the shapes and types of their parameters");
    }
  }
  for (size_t list = kLists; list <= kLists + 1 && list < a.size(); ++list) {
    if (!a[list].isTensorList()) continue;  // the counts of steps
    for (const Tensor& step : a[list].toTensorVector()) TORCH_CHECK(step.numel() == 1, "a step must be one number");
  }
}

// ---- statistics that a forward kernel made

void layer_norm_backward(const Arguments& a) {  // grad, input, shape, mean, rstd
  const Tensor input = a[1].toTensor();
  check_same_shape(a[0], input, "grad");
  const auto shape = static_cast<int64_t>(a[2].toIntVector().size());
  const int64_t inner = std::max<int64_t>(product_of_last(input, shape), 1);
  check_count(a[3], input.numel() / inner, "mean");
  check_count(a[4], input.numel() / inner, "rstd");
}

// Each of these has one number a channel, or is missing.
template <size_t kInput, size_t... kStatistics>
void channel_statistics(const Arguments& a) {
  const Tensor input = a[kInput].toTensor();
  TORCH_CHECK(input.dim() >= 2, "expected an input of at least two dimensions");
  for (const size_t place : {kStatistics...}) {
    if (tensor_or_none(a[place]).defined() && a[place].toTensor().numel() == 0) continue;
    check_count(a[place], input.size(1), "a statistic or weight");
  }
  if constexpr (kInput == 1) check_same_shape(a[0], input, "grad");
}

void batch_norm_backward(const Arguments& a) {  // grad, input, weight, running x 2, saved x 2, train
  channel_statistics<1, 2, 3, 4, 5, 6>(a);
  for (const size_t place : {a[7].toBool() ? 5 : 3, a[7].toBool() ? 6 : 4}) {
    const Tensor statistic = tensor_or_none(a[place]);
    TORCH_CHECK(statistic.defined() && statistic.numel() != 0, "the statistics of the forward pass are missing");
  }
}

void group_norm_backward(const Arguments& a) { check_same_shape(a[0], a[1].toTensor(), "grad"); }

void weight_norm(const Arguments& a) {
  const Tensor v = a[0].toTensor();
  check_count(a[1], v.size(a[2].toInt()), "g");
}

void weight_norm_backward(const Arguments& a) {  // grad, v, g, norms, dim
  const Tensor v = a[1].toTensor();
  check_same_shape(a[0], v, "grad");
  check_count(a[2], v.size(a[4].toInt()), "g");
  check_count(a[3], v.size(a[4].toInt()), "norms");
}

// ---- distances and transforms

void pdist_backward(const Arguments& a) {
  const Tensor self = a[1].toTensor();
  TORCH_CHECK(self.dim() == 2, "expected two dimensions");
  const int64_t rows = self.size(0);
  check_count(a[0], rows * (rows - 1) / 2, "grad");
  check_count(a[3], rows * (rows - 1) / 2, "distances");
}

void cdist_backward(const Arguments& a) {  // grad, x1, x2, p, cdist
  const Tensor first = a[1].toTensor(), second = a[2].toTensor(), grad = a[0].toTensor();
  TORCH_CHECK(first.dim() >= 2 && second.dim() >= 2 && grad.dim() >= 2 && grad.size(-2) == first.size(-2) &&
                  grad.size(-1) == second.size(-2) && first.size(-1) == second.size(-1),
              "grad has another shape than the distances");
  check_same_shape(a[4], grad, "distances");
}

void complex_to_real(const Arguments& a) {
  const Tensor self = a[0].toTensor();
  const auto dimensions = a[1].toIntVector();
  if (dimensions.empty()) return;
  const int64_t last = self.size(dimensions.back());
  TORCH_CHECK(a[3].toInt() >= 1 && last >= a[3].toInt() / 2 + 1, "the transform's length does not fit its input");
}

const std::unordered_map<std::string, ArgumentCheck>& checks() {
  static const auto* table = new std::unordered_map<std::string, ArgumentCheck>{
      {"embedding_dense_backward", &embedding_backward},
      {"max_pool2d_with_indices_backward", &pool_backward<7, 2, -1>},
      {"max_pool3d_with_indices_backward", &pool_backward<7, 3, -1>},
      {"adaptive_max_pool2d_backward", &pool_backward<2, 2, 0>},
      {"adaptive_max_pool3d_backward", &pool_backward<2, 3, 0>},
      {"fractional_max_pool2d_backward", &pool_backward<4, 2, 0>},
      {"fractional_max_pool3d_backward", &pool_backward<4, 3, 0>},
      {"_embedding_bag", &embedding_bag},
      {"_embedding_bag_forward_only", &embedding_bag},
      {"_embedding_bag_backward", &embedding_bag_backward},
      {"_embedding_bag_dense_backward", &embedding_bag_dense_backward},
      {"_embedding_bag_per_sample_weights_backward", &embedding_bag_weights_backward},
      {"_ctc_loss", &ctc_loss},
      {"_ctc_loss_backward", &ctc_loss_backward},
      {"segment_reduce", &segment_reduce},
      {"_segment_reduce_backward", &segment_reduce_backward},
      {"linalg_lu_solve", &lu_solve},
      {"linalg_ldl_solve", &ldl_solve},
      {"_convert_indices_from_coo_to_csr", &coo_to_csr},
      {"_convert_indices_from_csr_to_coo", &csr_to_coo},
      {"_fused_adam", &optimizer<5>},
      {"_fused_adamw", &optimizer<5>},
      {"_fused_sgd", &optimizer<3>},
      {"_fused_adagrad", &optimizer<3>},
      {"native_layer_norm_backward", &layer_norm_backward},
      {"native_group_norm_backward", &group_norm_backward},
      {"native_batch_norm", &channel_statistics<0, 1, 2, 3, 4>},
      {"_native_batch_norm_legit_no_training", &channel_statistics<0, 1, 2, 3, 4>},
      {"_batch_norm_with_update", &channel_statistics<0, 1, 2, 3, 4>},
      {"_batch_norm_no_update", &channel_statistics<0, 1, 2, 3, 4>},
      {"native_batch_norm_backward", &batch_norm_backward},
      {"batch_norm_backward", &batch_norm_backward},
      {"batch_norm_update_stats", &channel_statistics<0, 1, 2>},
      {"_weight_norm_interface", &weight_norm},
      {"_weight_norm_interface_backward", &weight_norm_backward},
      {"_pdist_backward", &pdist_backward},
      {"_cdist_backward", &cdist_backward},
      {"_fft_c2r", &complex_to_real},
  };
  return *table;
}

}  // namespace

ArgumentCheck argument_check(std::string_view name) {
  constexpr std::string_view kNamespace = "aten::";
  if (!name.starts_with(kNamespace)) return nullptr;
  name.remove_prefix(kNamespace.size());
  const std::string_view overload = name.find('.') == std::string_view::npos ? "" : name.substr(name.find('.') + 1);
  name = name.substr(0, name.find('.'));
  if (name == "_native_batch_norm_legit") {
    // Without running statistics the arguments behind weight and bias are others.
    return overload.starts_with("no_stats") ? &channel_statistics<0, 1, 2> : &channel_statistics<0, 1, 2, 3, 4>;
  }
  std::string base(name);
  if (base.ends_with('_')) base.pop_back();
  const auto found = checks().find(base);
  return found == checks().end() ? nullptr : found->second;
}

}  // namespace elara::server
