#include "server/context_flags.h"

#include <ATen/Context.h>

namespace elara::server {

namespace {

// What this build of torch has not (a CPU build has no cuSOLVER) stays as it is: it is a preference.
void prefer_linalg_backend(at::Context& context, int64_t value) {
  if (value < 0 || value > static_cast<int64_t>(at::LinalgBackend::Magma)) return;
  const auto backend = static_cast<at::LinalgBackend>(value);
  if (backend == at::LinalgBackend::Cusolver && !at::Context::hasCuSOLVER()) return;
  if (backend == at::LinalgBackend::Magma && !at::Context::hasMAGMA()) return;
  context.setLinalgPreferredBackend(backend);
}

}  // namespace

void set_context_flag(std::string_view key, int64_t value) {
  at::Context& context = at::globalContext();
  const bool on = value != 0;
  if (key == "allow_tf32_cublas") {
    context.setAllowTF32CuBLAS(on);
  } else if (key == "allow_tf32_cudnn") {
    context.setAllowTF32CuDNN(on);
  } else if (key == "allow_fp16_reduction_cublas") {
    context.setAllowFP16ReductionCuBLAS(on);
  } else if (key == "allow_bf16_reduction_cublas") {
    context.setAllowBF16ReductionCuBLAS(on);
  } else if (key == "cudnn_enabled") {
    context.setUserEnabledCuDNN(on);
  } else if (key == "benchmark_cudnn") {
    context.setBenchmarkCuDNN(on);
  } else if (key == "deterministic_cudnn") {
    context.setDeterministicCuDNN(on);
  } else if (key == "deterministic_algorithms") {
    context.setDeterministicAlgorithms(on, context.deterministicAlgorithmsWarnOnly());
  } else if (key == "deterministic_warn_only") {
    context.setDeterministicAlgorithms(context.deterministicAlgorithms(), on);
  } else if (key == "sdp_flash") {
    context.setSDPUseFlash(on);
  } else if (key == "sdp_mem_efficient") {
    context.setSDPUseMemEfficient(on);
  } else if (key == "sdp_math") {
    context.setSDPUseMath(on);
  } else if (key == "sdp_cudnn") {
    context.setSDPUseCuDNN(on);
  } else if (key == "linalg_backend") {
    prefer_linalg_backend(context, value);
  }
}

}  // namespace elara::server
