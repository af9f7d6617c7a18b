// The flags of torch's context that a client forwards.
#pragma once

#include <cstdint>
#include <string_view>

namespace elara::server {

// Sets the flag; an unknown key is ignored, so that an older server serves a newer client.
void set_context_flag(std::string_view key, int64_t value);

}  // namespace elara::server
