// Making an ordinary PyTorch process one whose "cuda" devices are remote.
#pragma once

#include <string>

namespace elara::client {

// Once a process, after `import torch`. `runtime_dir` holds the attachment file, `guards` is the constant number of
// device guards.
void install(const std::string& runtime_dir, int guards);

// Registers the forwarded operators, before the first session opens. Apart from install() because it takes 25 ms, which
// a process that never sees a device should not pay.
void activate();

}  // namespace elara::client
