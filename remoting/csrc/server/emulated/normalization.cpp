// The gradient of RMS norm, and the steps of synchronised batch norm (statistics, gathering, normalising, gradients).
#include <ATen/ATen.h>
#include <ATen/OpMathType.h>

#include <array>
#include <numeric>
#include <tuple>
#include <vector>

#include "server/emulated/kernels.h"

namespace elara::server::emulated {

namespace {

using at::Tensor;
using MaybeTensor = std::optional<Tensor>;

bool given(const MaybeTensor& tensor) { return tensor.has_value() && tensor->defined(); }

// Half precision is computed in single precision, as the CUDA kernels do.
Tensor widened(const Tensor& tensor) { return tensor.to(at::toOpMathType(tensor.scalar_type())); }

std::vector<int64_t> range(int64_t first, int64_t end) {
  std::vector<int64_t> values(static_cast<size_t>(std::max<int64_t>(end - first, 0)));
  std::iota(values.begin(), values.end(), first);
  return values;
}

std::tuple<Tensor, Tensor> rms_norm_backward(const Tensor& grad_out, const Tensor& input, at::IntArrayRef normalized,
                                             const Tensor& rstd, const MaybeTensor& weight,
                                             std::array<bool, 2> wanted) {
  const int64_t first = input.dim() - static_cast<int64_t>(normalized.size());
  TORCH_CHECK(first >= 0, "the normalized shape has more dimensions than the input");
  const Tensor unit = widened(input) * rstd;
  const Tensor grad = widened(grad_out);
  Tensor grad_input;
  if (wanted[0]) {
    const Tensor scaled = given(weight) ? grad * widened(*weight) : grad;
    const Tensor mean = (scaled * unit).mean(range(first, input.dim()), /*keepdim=*/true);
    grad_input = (rstd * (scaled - unit * mean)).to(input.scalar_type());
  }
  Tensor grad_weight;
  if (wanted[1] && given(weight)) {
    const auto outer = range(0, first);
    const Tensor product = grad * unit;
    grad_weight = (outer.empty() ? product : product.sum(outer)).to(weight->scalar_type());
  }
  return {grad_input, grad_weight};
}

// Batch norm's statistics run over everything but the channels, dimension 1.
std::vector<int64_t> but_channels(const Tensor& input) {
  auto dimensions = range(2, input.dim());
  dimensions.insert(dimensions.begin(), 0);
  return dimensions;
}
Tensor by_channel(const Tensor& values, const Tensor& input) {
  std::vector<int64_t> shape(static_cast<size_t>(input.dim()), 1);
  shape[1] = -1;
  return values.reshape(shape);
}

std::tuple<Tensor, Tensor> batch_norm_stats(const Tensor& input, double eps) {
  const Tensor wide = widened(input);
  const auto [variance, mean] = at::var_mean(wide, but_channels(input), /*unbiased=*/false);
  return {mean, (variance + eps).rsqrt()};
}

Tensor batch_norm_elemt(const Tensor& input, const MaybeTensor& weight, const MaybeTensor& bias, const Tensor& mean,
                        const Tensor& invstd, double) {
  Tensor out = (widened(input) - by_channel(mean, input)) * by_channel(invstd, input);
  if (given(weight)) out = out * by_channel(*weight, input);
  if (given(bias)) out = out + by_channel(*bias, input);
  return out.to(input.scalar_type());
}

std::tuple<Tensor, Tensor> gather_stats_with_counts(const Tensor& input, const Tensor& mean, const Tensor& invstd,
                                                    const MaybeTensor& running_mean, const MaybeTensor& running_var,
                                                    double momentum, double eps, const Tensor& counts) {
  (void)input;
  const Tensor count = counts.to(mean.scalar_type()).reshape({-1, 1});
  const Tensor total = count.sum();
  const Tensor joint_mean = (mean * count).sum(0) / total;
  const Tensor variance = invstd.pow(-2) - eps;
  const Tensor joint_variance = ((variance + (mean - joint_mean).pow(2)) * count).sum(0) / total;
  if (given(running_mean)) running_mean->mul_(1 - momentum).add_(joint_mean.to(running_mean->scalar_type()), momentum);
  if (given(running_var)) {
    const Tensor unbiased = joint_variance * (total / (total - 1));
    running_var->mul_(1 - momentum).add_(unbiased.to(running_var->scalar_type()), momentum);
  }
  return {joint_mean, (joint_variance + eps).rsqrt()};
}

std::tuple<Tensor, Tensor> gather_stats(const Tensor& input, const Tensor& mean, const Tensor& invstd,
                                        const MaybeTensor& running_mean, const MaybeTensor& running_var,
                                        double momentum, double eps, int64_t count) {
  const Tensor counts = at::full({mean.size(0)}, count, mean.options());
  return gather_stats_with_counts(input, mean, invstd, running_mean, running_var, momentum, eps, counts);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> backward_reduce(const Tensor& grad_out, const Tensor& input,
                                                           const Tensor& mean, const Tensor& invstd,
                                                           const MaybeTensor& weight, bool input_wanted,
                                                           bool weight_wanted, bool bias_wanted) {
  const auto dimensions = but_channels(input);
  const Tensor grad = widened(grad_out);
  const Tensor sum_dy = grad.sum(dimensions);
  const Tensor sum_dy_xmu = (grad * (widened(input) - by_channel(mean, input))).sum(dimensions);
  const auto like_weight = [&](const Tensor& values) {
    return given(weight) ? values.to(weight->scalar_type()) : values;
  };
  return {input_wanted ? sum_dy : Tensor(), input_wanted ? sum_dy_xmu : Tensor(),
          weight_wanted ? like_weight(sum_dy_xmu * invstd) : Tensor(),
          // A tensor of its own, since the sum is another of the results.
          bias_wanted ? like_weight(sum_dy).clone() : Tensor()};
}

Tensor backward_elemt(const Tensor& grad_out, const Tensor& input, const Tensor& mean, const Tensor& invstd,
                      const MaybeTensor& weight, const Tensor& sum_dy, const Tensor& sum_dy_xmu, const Tensor& count) {
  const Tensor total = count.sum().to(mean.scalar_type());
  const Tensor mean_dy = by_channel(sum_dy / total, input);
  const Tensor mean_dy_xmu = by_channel(sum_dy_xmu / total * invstd.pow(2), input);
  Tensor scale = by_channel(invstd, input);
  if (given(weight)) scale = scale * by_channel(*weight, input);
  const Tensor centred = widened(input) - by_channel(mean, input);
  return ((widened(grad_out) - mean_dy - centred * mean_dy_xmu) * scale).to(input.scalar_type());
}

}  // namespace

void add_normalization_kernels(torch::Library& library) {
  library.impl("_fused_rms_norm_backward", &rms_norm_backward);
  library.impl("batch_norm_stats", &batch_norm_stats);
  library.impl("batch_norm_elemt", &batch_norm_elemt);
  library.impl("batch_norm_gather_stats", &gather_stats);
  library.impl("batch_norm_gather_stats_with_counts", &gather_stats_with_counts);
  library.impl("batch_norm_backward_reduce", &backward_reduce);
  library.impl("batch_norm_backward_elemt", &backward_elemt);
}

}  // namespace elara::server::emulated
