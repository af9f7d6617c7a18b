#include "server/context_flags.h"

#include <ATen/Context.h>

namespace elara::server {

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
  }
}

}  // namespace elara::server
