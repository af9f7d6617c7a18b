// The operators that the client answers itself: they make, resize or re-point tensors, or move bytes between host and
// device.
#pragma once

#include <torch/library.h>

namespace elara::client {

void register_factories(torch::Library& library);
void register_copies(torch::Library& library);
void register_declined(torch::Library& library);
// torch.distributed's, at the key CUDA: refused in a sentence.
void refuse_collectives();

}  // namespace elara::client
