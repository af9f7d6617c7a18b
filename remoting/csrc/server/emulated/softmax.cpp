// Softmax of half precision with a result in single precision, and its gradient: autocast asks for it on a CUDA device.
// The CPU kernels refuse it; here the input is widened first.
#include <ATen/ATen.h>
#include <ATen/ops/_log_softmax_backward_data_cpu_dispatch.h>
#include <ATen/ops/_log_softmax_cpu_dispatch.h>
#include <ATen/ops/_softmax_backward_data_cpu_dispatch.h>
#include <ATen/ops/_softmax_cpu_dispatch.h>

#include "server/emulated/kernels.h"

namespace elara::server::emulated {

namespace {

using at::Tensor;

Tensor widened(const Tensor& self, bool half_to_float) { return half_to_float ? self.to(at::kFloat) : self; }

Tensor softmax(const Tensor& self, int64_t dim, bool half_to_float) {
  return at::cpu::_softmax(widened(self, half_to_float), dim, false);
}
Tensor& softmax_out(const Tensor& self, int64_t dim, bool half_to_float, Tensor& out) {
  return at::cpu::_softmax_out(out, widened(self, half_to_float), dim, false);
}
Tensor log_softmax(const Tensor& self, int64_t dim, bool half_to_float) {
  return at::cpu::_log_softmax(widened(self, half_to_float), dim, false);
}
Tensor& log_softmax_out(const Tensor& self, int64_t dim, bool half_to_float, Tensor& out) {
  return at::cpu::_log_softmax_out(out, widened(self, half_to_float), dim, false);
}

// `type` is that of the input: half precision where the result and its gradient are in single precision.
Tensor softmax_backward(const Tensor& grad, const Tensor& output, int64_t dim, c10::ScalarType type) {
  return at::cpu::_softmax_backward_data(grad, output, dim, grad.scalar_type()).to(type);
}
Tensor& softmax_backward_out(const Tensor& grad, const Tensor& output, int64_t dim, c10::ScalarType type, Tensor& out) {
  if (type == grad.scalar_type()) return at::cpu::_softmax_backward_data_out(out, grad, output, dim, type);
  const Tensor result = softmax_backward(grad, output, dim, type);
  return out.resize_(result.sizes()).copy_(result);
}
Tensor log_softmax_backward(const Tensor& grad, const Tensor& output, int64_t dim, c10::ScalarType type) {
  return at::cpu::_log_softmax_backward_data(grad, output, dim, grad.scalar_type()).to(type);
}
Tensor& log_softmax_backward_out(const Tensor& grad, const Tensor& output, int64_t dim, c10::ScalarType type,
                                 Tensor& out) {
  if (type == grad.scalar_type()) return at::cpu::_log_softmax_backward_data_out(out, grad, output, dim, type);
  const Tensor result = log_softmax_backward(grad, output, dim, type);
  return out.resize_(result.sizes()).copy_(result);
}

}  // namespace

void add_softmax_kernels(torch::Library& library) {
  library.impl("_softmax", &softmax);
  library.impl("_softmax.out", &softmax_out);
  library.impl("_log_softmax", &log_softmax);
  library.impl("_log_softmax.out", &log_softmax_out);
  library.impl("_softmax_backward_data", &softmax_backward);
  library.impl("_softmax_backward_data.out", &softmax_backward_out);
  library.impl("_log_softmax_backward_data", &log_softmax_backward);
  library.impl("_log_softmax_backward_data.out", &log_softmax_backward_out);
}

}  // namespace elara::server::emulated
