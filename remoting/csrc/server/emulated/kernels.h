// What an emulated device must do although only CUDA kernels do it: a client that sees a CUDA device lets torch choose
// operators that have no CPU kernel, or gives CPU kernels data types that only CUDA's take.
#pragma once

#include <torch/library.h>

namespace elara::server::emulated {

// Registers the kernels below at the CPU key, for the rest of the process; what torch has a kernel for is left alone,
// apart from those said to widen one. Call once.
void register_kernels();

void add_recurrent_kernels(torch::Library& library);      // fused LSTM and GRU cells
void add_normalization_kernels(torch::Library& library);  // RMS norm's gradient, synchronised batch norm
void add_attention_kernels(torch::Library& library);      // memory-efficient, flash and cuDNN attention
void add_softmax_kernels(torch::Library& library);        // softmax from half to single precision
void add_various_kernels(torch::Library& library);        // matmuls with an output type, fused dropout, histc

}  // namespace elara::server::emulated
