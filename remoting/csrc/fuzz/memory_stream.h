// A stream whose bytes lie in memory: a fuzzer's input as a connection that ends with it.
#pragma once

#include <fcntl.h>

#include <algorithm>
#include <cstring>
#include <string_view>

#include "net/stream.h"

namespace elara::fuzz {

class MemoryStream final : public net::Stream {
 public:
  explicit MemoryStream(std::string_view bytes) : Stream(::open("/dev/null", O_RDWR | O_CLOEXEC), "the fuzzer") {
    rest_ = bytes;
  }

  size_t read_some(void* into, size_t most) override {
    if (rest_.empty()) fail("it was closed at the other end");
    const size_t count = std::min(most, rest_.size());
    std::memcpy(into, rest_.data(), count);
    rest_.remove_prefix(count);
    return count;
  }
  void write_all(std::span<const iovec> pieces) override {
    // Every byte of an answer must be memory that may be read.
    for (const iovec& piece : pieces) {
      for (size_t i = 0; i < piece.iov_len; i += 4096) {
        sum_ = sum_ + static_cast<const unsigned char*>(piece.iov_base)[i];
      }
    }
  }

 private:
  std::string_view rest_;
  volatile unsigned sum_ = 0;
};

}  // namespace elara::fuzz
