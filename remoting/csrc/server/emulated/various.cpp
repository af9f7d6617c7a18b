// Matrix products with an output type of their own, fused dropout, and histograms of integers.
#include <ATen/ATen.h>
#include <ATen/ops/histc_native.h>

#include <tuple>

#include "server/emulated/kernels.h"

namespace elara::server::emulated {

namespace {

using at::Tensor;

Tensor mm_as(const Tensor& a, const Tensor& b, c10::ScalarType type) { return a.to(type).mm(b.to(type)); }
Tensor& mm_as_out(const Tensor& a, const Tensor& b, c10::ScalarType type, Tensor& out) {
  return at::mm_out(out, a.to(type), b.to(type));
}
Tensor bmm_as(const Tensor& a, const Tensor& b, c10::ScalarType type) { return a.to(type).bmm(b.to(type)); }
Tensor& bmm_as_out(const Tensor& a, const Tensor& b, c10::ScalarType type, Tensor& out) {
  return at::bmm_out(out, a.to(type), b.to(type));
}
Tensor addmm_as(const Tensor& self, const Tensor& a, const Tensor& b, c10::ScalarType type, const at::Scalar& beta,
                const at::Scalar& alpha) {
  return at::addmm(self.to(type), a.to(type), b.to(type), beta, alpha);
}
Tensor& addmm_as_out(const Tensor& self, const Tensor& a, const Tensor& b, c10::ScalarType type, const at::Scalar& beta,
                     const at::Scalar& alpha, Tensor& out) {
  return at::addmm_out(out, self.to(type), a.to(type), b.to(type), beta, alpha);
}
Tensor baddbmm_as(const Tensor& self, const Tensor& a, const Tensor& b, c10::ScalarType type, const at::Scalar& beta,
                  const at::Scalar& alpha) {
  return at::baddbmm(self.to(type), a.to(type), b.to(type), beta, alpha);
}
Tensor& baddbmm_as_out(const Tensor& self, const Tensor& a, const Tensor& b, c10::ScalarType type,
                       const at::Scalar& beta, const at::Scalar& alpha, Tensor& out) {
  return at::baddbmm_out(out, self.to(type), a.to(type), b.to(type), beta, alpha);
}

// `p` is the chance to keep an element here, as in the CUDA kernel.
std::tuple<Tensor, Tensor> fused_dropout(const Tensor& self, double p, std::optional<at::Generator> generator) {
  const Tensor mask = at::empty_like(self, self.options().dtype(at::kByte)).bernoulli_(p, std::move(generator));
  return {self * mask / p, mask};
}
Tensor masked_scale(const Tensor& self, const Tensor& mask, double scale) {
  return self * mask.to(self.scalar_type()) * scale;
}

// CUDA's histc takes integers; the CPU's does not.
Tensor histc(const Tensor& self, int64_t bins, const at::Scalar& least, const at::Scalar& most) {
  if (!c10::isIntegralType(self.scalar_type(), /*includeBool=*/false)) {
    return at::native::histogram_histc(self, bins, least, most);
  }
  return at::native::histogram_histc(self.to(at::kDouble), bins, least, most).to(self.scalar_type());
}

}  // namespace

void add_various_kernels(torch::Library& library) {
  library.impl("mm.dtype", &mm_as);
  library.impl("mm.dtype_out", &mm_as_out);
  library.impl("bmm.dtype", &bmm_as);
  library.impl("bmm.dtype_out", &bmm_as_out);
  library.impl("addmm.dtype", &addmm_as);
  library.impl("addmm.dtype_out", &addmm_as_out);
  library.impl("baddbmm.dtype", &baddbmm_as);
  library.impl("baddbmm.dtype_out", &baddbmm_as_out);
  library.impl("_fused_dropout", &fused_dropout);
  library.impl("_masked_scale", &masked_scale);
  library.impl("histc", &histc);
}

}  // namespace elara::server::emulated
