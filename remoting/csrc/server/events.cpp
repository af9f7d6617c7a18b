#include "server/events.h"

#include "server/errors.h"
#include "wire/codec.h"

namespace elara::server {

namespace {

constexpr size_t kMostEvents = 4u << 20;

}  // namespace

void Events::record(uint64_t event, Device& device) {
  if (marks_.size() >= kMostEvents) throw wire::ProtocolError("the session holds too many events");
  marks_[event] = device.mark();
}

bool Events::reached(uint64_t event) const {
  const auto found = marks_.find(event);
  return found == marks_.end() || found->second->reached();
}

double Events::elapsed(uint64_t start, uint64_t end) const {
  const auto first = marks_.find(start);
  const auto second = marks_.find(end);
  if (first == marks_.end() || second == marks_.end()) {
    throw WorkError(wire::ErrorKind::kValue, "Both events must be recorded before calculating elapsed time.");
  }
  return second->second->milliseconds_since(*first->second);
}

}  // namespace elara::server
