// What the dispatcher knows of an operator's kernels and does not show: PyTorch's C++ shape functions, which lie under
// the Python ones that `import torch` puts over them, and where a kernel comes from.
#pragma once

#include <ATen/core/boxing/KernelFunction.h>
#include <ATen/core/dispatch/Dispatcher.h>

#include <optional>

namespace elara::client {

// The C++ kernel that torch registered for the Meta key, or nothing when there is none.
std::optional<c10::KernelFunction> captured_meta(const c10::OperatorHandle& op);
// Whether the kernel that serves `key` itself was registered by C++ code and not by Python.
bool has_native_kernel(const c10::OperatorHandle& op, c10::DispatchKey key);

}  // namespace elara::client
