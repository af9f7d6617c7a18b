// Events: points in the order of execution, with the time they were reached.
#pragma once

#include <cstdint>
#include <memory>
#include <unordered_map>

#include "server/device.h"

namespace elara::server {

class Events {
 public:
  void record(uint64_t event, Device& device);  // throws wire::ProtocolError when there are too many
  // Whether the device has come to it; true for an event that was never recorded, as CUDA says.
  bool reached(uint64_t event) const;
  // Milliseconds from one to the other; throws WorkError when either was never recorded.
  double elapsed(uint64_t start, uint64_t end) const;
  void erase(uint64_t event) { marks_.erase(event); }

 private:
  std::unordered_map<uint64_t, std::unique_ptr<Mark>> marks_;
};

}  // namespace elara::server
