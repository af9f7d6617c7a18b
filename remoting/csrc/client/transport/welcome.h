// What a device server answers to a hello.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include "net/stream.h"
#include "wire/codec.h"

namespace elara::client {

// What the device server said about its device when the session opened.
struct DeviceFacts {
  std::string model;
  std::string torch_version;
  uint64_t memory_cap = 0;    // bytes this lease may hold
  uint64_t memory_total = 0;  // bytes of the whole device
  bool emulated = false;
};

struct Welcome {
  wire::MessageType type = wire::MessageType::kReply;  // or kError, and then only the payload means something
  std::string payload;
  DeviceFacts facts;
  std::chrono::milliseconds grace{0};  // 0: the session ends with its connection
};

// Throws net::ConnectionLost, wire::ProtocolError, and std::runtime_error with the server's own sentence.
Welcome read_welcome(net::Stream& stream);

}  // namespace elara::client
