#include "client/takeover/attention.h"

#include <ATen/Context.h>
#include <ATen/core/Tensor.h>
#include <ATen/native/transformers/attention.h>
#include <ATen/native/transformers/sdp_utils_cpp.h>
#include <ATen/ops/_fused_sdp_choice_ops.h>

#include "client/attach/devices.h"
#include "client/transport/session.h"

namespace elara::client {

namespace {

constexpr int64_t kMath = static_cast<int64_t>(sdp::SDPBackend::math);
constexpr int64_t kEfficient = static_cast<int64_t>(sdp::SDPBackend::efficient_attention);
constexpr int64_t kFlash = static_cast<int64_t>(sdp::SDPBackend::flash_attention);

bool is_half(const at::Tensor& tensor) {
  return tensor.scalar_type() == at::kHalf || tensor.scalar_type() == at::kBFloat16;
}

// Grouped heads are no matter of their own: with as many of each they are ordinary ones.
bool fits_fused(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value) {
  const bool dense = !query.is_nested() && !key.is_nested() && !value.is_nested();
  if (!dense || query.dim() != 4 || key.dim() != 4 || value.dim() != 4) return false;
  if (query.scalar_type() != key.scalar_type() || query.scalar_type() != value.scalar_type()) return false;
  if (!is_half(query) && query.scalar_type() != at::kFloat) return false;
  const bool same_heads = query.size(1) == key.size(1) && query.size(1) == value.size(1);
  const bool same_batch = query.size(0) == key.size(0) && query.size(0) == value.size(0);
  // CUDA's kernels load whole vectors of a head.
  const bool aligned = query.size(3) % 8 == 0 && value.size(3) % 8 == 0 && query.stride(3) == 1 && key.stride(3) == 1 &&
                       value.stride(3) == 1;
  return same_heads && same_batch && aligned && query.size(3) == key.size(3) && query.size(3) == value.size(3) &&
         query.numel() != 0 && key.numel() != 0;
}

// Whether native CPU would take its own fused kernel: asked of PyTorch's rule for the CPU, which reads only metadata.
bool fused_on_cpu(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                  const std::optional<at::Tensor>& mask, double dropout, bool causal, std::optional<double> scale,
                  bool grouped) {
  return at::_ops::_fused_sdp_choice::redispatch(c10::DispatchKeySet(c10::DispatchKey::CPU), query, key, value, mask,
                                                 dropout, causal, scale, grouped) == kFlash;
}

// By the rules of CUDA as far as they matter: the efficient kernel before flash attention, because flash also returns
// numbers, for which every call would wait. An emulated device takes it where native CPU takes its fused one, so that
// its gradients have the strides that they have natively, unless the program wants one kernel and no other.
int64_t choose(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
               const std::optional<at::Tensor>& mask, double dropout, bool causal, std::optional<double> scale,
               bool grouped) {
  const auto& context = at::globalContext();
  const bool masked = mask.has_value() && mask->defined();
  const bool emulated = session_at(query.device().index())->facts().emulated;
  if (emulated && context.userEnabledMemEfficientSDP() && context.userEnabledFlashSDP() &&
      context.userEnabledMathSDP()) {
    return fused_on_cpu(query, key, value, mask, dropout, causal, scale, grouped) ? kEfficient : kMath;
  }
  if (fits_fused(query, key, value)) {
    // A CPU draws the same dropout as it does natively only on the plain path.
    const bool plain_dropout = dropout > 0 && emulated;
    if (!plain_dropout && context.userEnabledMemEfficientSDP() && !(masked && mask->requires_grad())) return kEfficient;
    if (!plain_dropout && context.userEnabledFlashSDP() && !masked && is_half(query)) return kFlash;
  }
  TORCH_CHECK(context.userEnabledMathSDP(), "No available kernel. Aborting execution.");
  return kMath;
}

}  // namespace

void install_attention_choice() { at::native::_fused_sdp_choice_stub.set_cuda_dispatch_ptr(&choose); }

}  // namespace elara::client
