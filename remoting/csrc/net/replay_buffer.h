// Bytes on their way to the other side: those not sent yet, and those sent whose arrival was not acknowledged, which a
// new connection may have to send again. Positions count from the first byte of the session.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <vector>

namespace elara::net {

class ReplayBuffer {
 public:
  // `keep`: sent bytes stay until they are acknowledged. The first byte appended has position `position`.
  ReplayBuffer(bool keep, uint64_t position);

  uint64_t begin() const { return begin_; }
  uint64_t sent() const { return sent_; }
  uint64_t end() const { return end_; }
  size_t held() const { return end_ - begin_; }
  size_t unsent() const { return end_ - sent_; }

  // Throws std::bad_alloc, and is left as it was then.
  void append(const void* data, size_t bytes);
  // The first unsent bytes, as they lie in memory; returns how many of `into` were filled.
  size_t unsent_pieces(std::span<iovec> into) const;
  void note_sent(size_t bytes);
  // The other side has all bytes before `position`. False when that cannot be.
  bool acknowledge(uint64_t position);
  // A new connection begins at `position`, which must be held: neither given up nor never sent.
  bool holds(uint64_t position) const { return position >= begin_ && position <= sent_; }
  void rewind(uint64_t position);

 private:
  static constexpr size_t kBlock = size_t{256} << 10;
  // Blocks kept for reuse: those of a transfer that the other side keeps up with.
  static constexpr size_t kSpare = 16;
  using Block = std::unique_ptr<char[]>;

  void drop_before(uint64_t position);

  bool keep_;
  uint64_t begin_;
  uint64_t sent_;
  uint64_t end_;
  uint64_t first_block_;  // begin_ lies in block number first_block_, counted like positions
  std::deque<Block> blocks_;
  std::vector<Block> spare_;
};

}  // namespace elara::net
