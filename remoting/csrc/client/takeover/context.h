// PyTorch's context flags (TF32, determinism, cuDNN, attention kernels): set in the client, in force on the server.
#pragma once

namespace elara::client {

// Tells every session the flags when it opens.
void install_context();
// Tells the open sessions the flags that have changed since they last heard of them.
void forward_context();

}  // namespace elara::client
