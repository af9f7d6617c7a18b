// Events: points in the order of execution, with the time they were reached.
#pragma once

#include <chrono>
#include <cstdint>
#include <unordered_map>

namespace elara::server {

// On an emulated device everything runs in order, so an event is done once the server has come to it.
// A CUDA device waits for its stream first: exact, but not free; not yet run on a GPU.
class Events {
 public:
  using Clock = std::chrono::steady_clock;

  void record(uint64_t event);  // throws wire::ProtocolError when there are too many
  bool known(uint64_t event) const { return times_.contains(event); }
  // Milliseconds from one to the other; throws WorkError when either was never recorded.
  double elapsed(uint64_t start, uint64_t end) const;
  void erase(uint64_t event) { times_.erase(event); }

 private:
  std::unordered_map<uint64_t, Clock::time_point> times_;
};

}  // namespace elara::server
