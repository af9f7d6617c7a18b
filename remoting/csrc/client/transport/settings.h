// What a user may set of a session's connection, by environment variable (docs/remote-devices.md).
#pragma once

#include <chrono>
#include <cstddef>

namespace elara::client {

struct TransportSettings {
  // ELARA_GRACE_SECONDS: how long a lost connection is tried again; 0: not at all.
  std::chrono::milliseconds grace{60'000};
  // ELARA_REPLAY_BYTES: what is kept of sent bytes until the device server has acknowledged them. A program that runs
  // further ahead waits.
  size_t replay_bytes = size_t{64} << 20;
};

const TransportSettings& transport_settings();

}  // namespace elara::client
