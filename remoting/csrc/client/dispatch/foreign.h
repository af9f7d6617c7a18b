// Operators of other libraries (torchvision's, for instance) that have a kernel for CUDA of their own.
#pragma once

#include <string_view>

namespace elara::client {

// Begins to watch for libraries that define operators. Once, before the first session.
void watch_foreign_operators();
// Puts forwarding in the place of their CUDA kernels, which would run here and find no device. Quick when no library
// has come since the last call; every way by which tensors reach the device calls it.
void take_over_foreign_operators();
// The library that an operator belongs to is not PyTorch.
bool is_foreign(std::string_view name);

}  // namespace elara::client
