// Streams, events and the current device, as PyTorch's device-independent code asks for them.
#pragma once

#include <c10/core/Stream.h>

#include <cstdint>

namespace elara::client {

// Registers the device guard of the type "cuda". Once, and never undone.
void install_guard();

c10::Stream current_stream(int ordinal);
c10::Stream default_stream(int ordinal);
void set_current_stream(int ordinal, c10::StreamId id);
// A number for an event that nobody else in this process has.
uint64_t take_event();

}  // namespace elara::client
