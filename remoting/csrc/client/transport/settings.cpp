#include "client/transport/settings.h"

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <cstdlib>
#include <string_view>

namespace elara::client {

namespace {

// The value within its bounds, or `otherwise` where there is none.
uint64_t number_of(const char* name, uint64_t least, uint64_t most, uint64_t otherwise) {
  const char* text = std::getenv(name);
  if (text == nullptr) return otherwise;
  const std::string_view digits(text);
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (error != std::errc() || end != digits.data() + digits.size() || digits.empty()) return otherwise;
  return std::clamp(value, least, most);
}

}  // namespace

const TransportSettings& transport_settings() {
  static const TransportSettings settings = [] {
    TransportSettings made;
    made.grace = std::chrono::seconds(number_of("ELARA_GRACE_SECONDS", 0, 600, 60));
    made.replay_bytes = number_of("ELARA_REPLAY_BYTES", 1u << 20, 1u << 30, made.replay_bytes);
    return made;
  }();
  return settings;
}

}  // namespace elara::client
