// What PyTorch's device-independent code asks of "CUDA".
#pragma once

namespace elara::client {

void install_hooks();

}  // namespace elara::client
