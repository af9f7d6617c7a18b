// Questions that torch asks of a CUDA device, and that are answered with no without asking the device: whether cuDNN or
// MIOpen takes a CTC loss. The loss then runs torch's own kernel, in one call, and its lengths may stay on the CPU.
#include <ATen/ATen.h>

#include "client/dispatch/native.h"

namespace elara::client {

namespace {

bool declined(const at::Tensor&, const at::Tensor&, at::IntArrayRef, at::IntArrayRef, int64_t) { return false; }
bool declined_by_tensor(const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&, int64_t) {
  return false;
}

}  // namespace

void register_declined(torch::Library& library) {
  library.impl("_use_cudnn_ctc_loss", TORCH_FN(declined));
  library.impl("_use_cudnn_ctc_loss.Tensor", TORCH_FN(declined_by_tensor));
  library.impl("_use_miopen_ctc_loss", TORCH_FN(declined));
  library.impl("_use_miopen_ctc_loss.Tensor", TORCH_FN(declined_by_tensor));
}

}  // namespace elara::client
