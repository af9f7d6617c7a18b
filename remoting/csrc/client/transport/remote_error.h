// Turns what a device server reports into the exceptions PyTorch users know.
#pragma once

#include <cstdint>
#include <string>

namespace elara::client {

class Session;

// `payload` is that of a kError message.
[[noreturn]] void raise_remote_error(Session& session, const std::string& payload);
// Same sentence as CUDA's allocator, so that programs which catch or parse it work.
[[noreturn]] void raise_out_of_memory(Session& session, uint64_t asked, uint64_t live);

}  // namespace elara::client
