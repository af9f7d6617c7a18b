// Kernels of PyTorch's own that serve on an attached GPU as they are: those of tensors that consist of other tensors
// (sparse, nested), where torch has one function for the CPU and for CUDA. What it does to the parts is forwarded.
#pragma once

#include <c10/core/DispatchKey.h>
#include <torch/library.h>

namespace elara::client {

// A library for kernels at `key`, which stay for as long as the process does.
torch::Library& library_for(c10::DispatchKey key, const char* space);

// The function that stands at `from` for each operator of the list that the build made (ops/generate.py), at `to` too.
void register_shared(torch::Library& library, c10::DispatchKey from, c10::DispatchKey to);

// One such, by its name without "aten::" and its overload, in place also of a CUDA build's own function.
void adopt_kernel(torch::Library& library, const char* name, const char* overload, c10::DispatchKey from);

// Where a CUDA build has a kernel at `to` that is not shared with `from` it would ask the CUDA runtime of the client's
// machine: a refusal takes its place, and that of what is implemented nowhere. It says that the operator "is not
// supported for `kind` on an attached GPU; `way_out`".
void refuse_others(c10::DispatchKey from, c10::DispatchKey to, const char* kind, const char* way_out);

}  // namespace elara::client
