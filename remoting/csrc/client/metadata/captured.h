// PyTorch's C++ shape functions, from under the Python ones that `import torch` puts over them.
#pragma once

#include <ATen/core/boxing/KernelFunction.h>
#include <ATen/core/dispatch/Dispatcher.h>

#include <optional>

namespace elara::client {

// The C++ kernel that torch registered for the Meta key, or nothing when there is none.
std::optional<c10::KernelFunction> captured_meta(const c10::OperatorHandle& op);

}  // namespace elara::client
