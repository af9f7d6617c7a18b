// Text of the other side as Python can show it.
#pragma once

#include <string>
#include <string_view>

namespace elara::client {

// Valid UTF-8 without control characters ('?' stands for each byte that is neither), cut after some 20,000 bytes. An
// honest server's text comes back as it was.
std::string readable(std::string_view text);

}  // namespace elara::client
