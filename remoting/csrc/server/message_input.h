// Messages from a stream: many small ones out of one read, large payloads straight to where they belong.
#pragma once

#include <cstdint>
#include <vector>

#include "net/stream.h"
#include "wire/codec.h"

namespace elara::server {

class MessageInput {
 public:
  explicit MessageInput(net::Stream& stream) : stream_(stream), buffer_(kInitialBytes) {}

  // Whether the next message's header can be had without waiting.
  bool ready() const { return end_ - begin_ >= wire::kHeaderBytes; }
  // Waits for the next header; throws net::ConnectionLost, wire::ProtocolError.
  wire::Header header();
  // The next `count` bytes of the message, all in memory; valid until the next call.
  const char* bytes(size_t count);
  // The next `count` bytes of the message, into `into`; nullptr throws them away.
  void bytes_into(char* into, size_t count);

 private:
  static constexpr size_t kInitialBytes = 256 << 10;

  void fill(size_t count);

  net::Stream& stream_;
  std::vector<char> buffer_;
  size_t begin_ = 0;
  size_t end_ = 0;
};

}  // namespace elara::server
