// Streams, events and the current device, as PyTorch's device-independent code asks for them.
#pragma once

#include <c10/core/Stream.h>

namespace elara::client {

// Registers the device guard of the type "cuda". Once, and never undone.
void install_guard();

c10::Stream current_stream(int ordinal);
c10::Stream default_stream(int ordinal);
void set_current_stream(int ordinal, c10::StreamId id);

}  // namespace elara::client
