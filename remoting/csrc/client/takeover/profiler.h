// What torch's profilers ask of "cuda": marks in the stream of a device, and the time between two of them.
#pragma once

namespace elara::client {

// Once a process. In a CUDA build it takes the place of what asks the machine's own CUDA runtime.
void install_profiler();

}  // namespace elara::client
