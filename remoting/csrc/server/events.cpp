#include "server/events.h"

#include "server/errors.h"
#include "wire/codec.h"

namespace elara::server {

namespace {

constexpr size_t kMostEvents = 4u << 20;

}  // namespace

void Events::record(uint64_t event) {
  if (times_.size() >= kMostEvents) throw wire::ProtocolError("the session holds too many events");
  times_[event] = Clock::now();
}

double Events::elapsed(uint64_t start, uint64_t end) const {
  const auto first = times_.find(start);
  const auto second = times_.find(end);
  if (first == times_.end() || second == times_.end()) {
    throw WorkError(wire::ErrorKind::kValue, "Both events must be recorded before calculating elapsed time.");
  }
  return std::chrono::duration<double, std::milli>(second->second - first->second).count();
}

}  // namespace elara::server
