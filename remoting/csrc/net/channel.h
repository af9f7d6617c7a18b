// One session's bytes in both directions, over one connection after another: each byte arrives once and in order, no
// matter where a connection was cut.
//
// Both sides count the bytes they have received since the session began. A new connection begins by telling each other
// these counts (kResume), and each side sends again from there. In between, kAck messages let the sender forget.
// Not thread-safe: its owner's lock guards it. Nothing here waits.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "net/replay_buffer.h"
#include "net/stream.h"

namespace elara::net {

class Channel {
 public:
  // A session that began on `stream` with `sent` and `received` bytes. Not resumable: what was sent is not kept.
  Channel(std::shared_ptr<Stream> stream, bool resumable, uint64_t sent, uint64_t received);

  bool connected() const { return stream_ != nullptr; }
  // For waiting on its descriptor without the owner's lock; null while there is none.
  const std::shared_ptr<Stream>& stream() const { return stream_; }
  // Why the last connection was lost, as a sentence, and when.
  const std::string& loss() const { return loss_; }
  Clock::time_point lost_at() const { return lost_at_; }

  // Goes on over a new connection; the other side has received `peer_received` bytes. It has to be possible.
  bool can_resume(uint64_t peer_received) const { return buffer_.holds(peer_received); }
  void resume(std::shared_ptr<Stream> stream, uint64_t peer_received);
  void drop(const std::string& why) noexcept;

  void append(const void* data, size_t bytes) { buffer_.append(data, bytes); }
  // Sends what the connection takes at once.
  void send_some();
  // At most `most` bytes that have arrived; 0 when there are none now, or no connection.
  size_t receive_some(void* into, size_t most);
  bool acknowledge(uint64_t position) { return buffer_.acknowledge(position); }

  size_t held() const { return buffer_.held(); }
  size_t unsent() const { return buffer_.unsent(); }
  uint64_t sent() const { return buffer_.sent(); }
  uint64_t received() const { return received_; }
  Clock::time_point last_heard() const { return last_heard_; }

 private:
  std::shared_ptr<Stream> stream_;
  ReplayBuffer buffer_;
  uint64_t received_;
  std::string loss_;
  Clock::time_point lost_at_{};
  Clock::time_point last_heard_ = Clock::now();
};

}  // namespace elara::net
