// The fused attentions of CUDA devices. Without dropout they are torch's own flash attention for the CPU; with it,
// plain arithmetic whose mask is drawn again from its seed in the backward pass, so that nothing of L x S is kept.
#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include <array>
#include <cmath>
#include <limits>
#include <mutex>
#include <tuple>

#include "server/emulated/kernels.h"

namespace elara::server::emulated {

namespace {

using at::Tensor;
using MaybeTensor = std::optional<Tensor>;

struct Attention {
  Tensor query, key, value;  // batch, heads, length, head size
  MaybeTensor bias;
  bool causal = false;
  double dropout = 0;
  double scale = 1;

  Attention(const Tensor& q, const Tensor& k, const Tensor& v, const MaybeTensor& b, bool c, double d,
            std::optional<double> s)
      : query(q),
        key(k),
        value(v),
        causal(c),
        dropout(d),
        scale(s.value_or(1 / std::sqrt(static_cast<double>(q.size(-1))))) {
    if (b.has_value() && b->defined()) bias = b;
    TORCH_CHECK(dropout >= 0 && dropout < 1, "dropout must be at least 0 and below 1");
  }

  Tensor scores() const {
    Tensor scores = at::matmul(query, key.transpose(-2, -1)) * scale;
    if (bias) scores = scores + *bias;
    if (causal) {
      const Tensor above = at::ones({query.size(-2), key.size(-2)}, query.options().dtype(at::kBool)).triu(1);
      scores = scores.masked_fill(above, -std::numeric_limits<double>::infinity());
    }
    return scores;
  }
  // 1 / (1 - dropout) where a weight is kept, 0 where it is dropped.
  Tensor kept(const Tensor& seed) const {
    at::Generator generator = at::detail::createCPUGenerator(static_cast<uint64_t>(seed.item<int64_t>()));
    const Tensor mask = at::empty({query.size(0), query.size(1), query.size(-2), key.size(-2)}, query.options());
    return mask.bernoulli_(1 - dropout, generator).div_(1 - dropout);
  }
};

// Seeds come from the default generator, so that torch.manual_seed decides them.
Tensor draw_seed(double dropout) {
  if (dropout == 0) return at::zeros({}, at::kLong);
  return at::empty({}, at::kLong).random_();
}

std::tuple<Tensor, Tensor> forward(const Attention& call, const Tensor& seed) {
  if (call.dropout == 0) {
    return at::_scaled_dot_product_flash_attention_for_cpu(call.query, call.key, call.value, 0.0, call.causal,
                                                           call.bias, call.scale);
  }
  const Tensor scores = call.scores();
  const Tensor weights = scores.softmax(-1) * call.kept(seed);
  return {at::matmul(weights, call.value), scores.logsumexp(-1).to(at::kFloat)};
}

// Gradients of query, key, value and bias (undefined without one).
std::tuple<Tensor, Tensor, Tensor, Tensor> backward(const Attention& call, const Tensor& grad_out, const Tensor& out,
                                                    const Tensor& logsumexp, const Tensor& seed, bool bias_wanted) {
  if (call.dropout == 0 && !bias_wanted) {
    auto [query, key, value] = at::_scaled_dot_product_flash_attention_for_cpu_backward(
        grad_out, call.query, call.key, call.value, out, logsumexp, 0.0, call.causal, call.bias, call.scale);
    return {query, key, value, Tensor()};
  }
  const Tensor weights = call.scores().softmax(-1);
  const Tensor kept = call.dropout == 0 ? Tensor() : call.kept(seed);
  const Tensor grad_value = at::matmul((kept.defined() ? weights * kept : weights).transpose(-2, -1), grad_out);
  Tensor grad_weights = at::matmul(grad_out, call.value.transpose(-2, -1));
  if (kept.defined()) grad_weights = grad_weights * kept;
  const Tensor grad_scores = weights * (grad_weights - (grad_weights * weights).sum(-1, true));
  Tensor grad_bias;
  if (bias_wanted && call.bias) grad_bias = grad_scores.sum_to_size(call.bias->sizes());
  return {at::matmul(grad_scores, call.key) * call.scale,
          at::matmul(grad_scores.transpose(-2, -1), call.query) * call.scale, grad_value, grad_bias};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> efficient(const Tensor& q, const Tensor& k, const Tensor& v,
                                                     const MaybeTensor& bias, bool, double dropout, bool causal,
                                                     std::optional<double> scale) {
  const Tensor seed = draw_seed(dropout);
  auto [out, logsumexp] = forward(Attention(q, k, v, bias, causal, dropout, scale), seed);
  return {out, logsumexp, seed, at::zeros({}, at::kLong)};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> efficient_backward(const Tensor& grad_out, const Tensor& q, const Tensor& k,
                                                              const Tensor& v, const Tensor& bias, const Tensor& out,
                                                              const Tensor& logsumexp, const Tensor& seed,
                                                              const Tensor&, double dropout, std::array<bool, 4> wanted,
                                                              bool causal, std::optional<double> scale) {
  if (!grad_out.defined()) return {};
  return backward(Attention(q, k, v, bias, causal, dropout, scale), grad_out, out, logsumexp, seed, wanted[3]);
}

std::tuple<Tensor, Tensor, Tensor, Tensor, c10::SymInt, c10::SymInt, Tensor, Tensor, Tensor> flash(
    const Tensor& q, const Tensor& k, const Tensor& v, double dropout, bool causal, bool, std::optional<double> scale) {
  const Tensor seed = draw_seed(dropout);
  auto [out, logsumexp] = forward(Attention(q, k, v, std::nullopt, causal, dropout, scale), seed);
  return {out,
          logsumexp,
          Tensor(),
          Tensor(),
          q.size(-2),
          k.size(-2),
          seed,
          at::zeros({}, at::kLong),
          at::empty({0}, q.options())};
}

std::tuple<Tensor, Tensor, Tensor> flash_backward(const Tensor& grad_out, const Tensor& q, const Tensor& k,
                                                  const Tensor& v, const Tensor& out, const Tensor& logsumexp,
                                                  const Tensor&, const Tensor&, c10::SymInt, c10::SymInt,
                                                  double dropout, bool causal, const Tensor& seed, const Tensor&,
                                                  std::optional<double> scale) {
  if (!grad_out.defined()) return {};
  auto [query, key, value, bias] =
      backward(Attention(q, k, v, std::nullopt, causal, dropout, scale), grad_out, out, logsumexp, seed, false);
  return {query, key, value};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, c10::SymInt, c10::SymInt, Tensor, Tensor, Tensor> cudnn(
    const Tensor& q, const Tensor& k, const Tensor& v, const MaybeTensor& bias, bool, double dropout, bool causal, bool,
    std::optional<double> scale) {
  const Tensor seed = draw_seed(dropout);
  auto [out, logsumexp] = forward(Attention(q, k, v, bias, causal, dropout, scale), seed);
  return {out,
          logsumexp,
          Tensor(),
          Tensor(),
          q.size(-2),
          k.size(-2),
          seed,
          at::zeros({}, at::kLong),
          at::empty({0}, q.options())};
}

std::tuple<Tensor, Tensor, Tensor> cudnn_backward(const Tensor& grad_out, const Tensor& q, const Tensor& k,
                                                  const Tensor& v, const Tensor& out, const Tensor& logsumexp,
                                                  const Tensor& seed, const Tensor&, const Tensor& bias, const Tensor&,
                                                  const Tensor&, c10::SymInt, c10::SymInt, double dropout, bool causal,
                                                  std::optional<double> scale) {
  if (!grad_out.defined()) return {};
  auto [query, key, value, no_bias] =
      backward(Attention(q, k, v, bias, causal, dropout, scale), grad_out, out, logsumexp, seed, false);
  return {query, key, value};
}

}  // namespace

void add_attention_kernels(torch::Library& library) {
  library.impl("_scaled_dot_product_efficient_attention", &efficient);
  library.impl("_scaled_dot_product_efficient_attention_backward", &efficient_backward);
  library.impl("_scaled_dot_product_flash_attention", &flash);
  library.impl("_scaled_dot_product_flash_attention_backward", &flash_backward);
  library.impl("_scaled_dot_product_cudnn_attention", &cudnn);
  library.impl("_scaled_dot_product_cudnn_attention_backward", &cudnn_backward);
}

}  // namespace elara::server::emulated
