// Page-aligned host memory for pin_memory(). Nothing is registered with a driver: the device is elsewhere.
#pragma once

#include <c10/core/Allocator.h>

namespace elara::client {

c10::Allocator* pinned_allocator();
bool is_pinned(const void* pointer);

}  // namespace elara::client
