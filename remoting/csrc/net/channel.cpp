#include "net/channel.h"

#include <array>
#include <utility>

namespace elara::net {

Channel::Channel(std::shared_ptr<Stream> stream, bool resumable, uint64_t sent, uint64_t received)
    : stream_(std::move(stream)), buffer_(resumable, sent), received_(received) {}

void Channel::resume(std::shared_ptr<Stream> stream, uint64_t peer_received) {
  buffer_.rewind(peer_received);
  stream_ = std::move(stream);
  last_heard_ = Clock::now();
}

void Channel::drop(const std::string& why) noexcept {
  if (!stream_) return;
  stream_.reset();
  loss_ = why;
  lost_at_ = Clock::now();
}

void Channel::send_some() {
  if (!stream_) return;
  try {
    while (buffer_.unsent() != 0) {
      std::array<iovec, 16> pieces{};
      const size_t count = buffer_.unsent_pieces(pieces);
      const size_t sent = stream_->try_write(std::span(pieces.data(), count));
      if (sent == 0) return;
      buffer_.note_sent(sent);
    }
  } catch (const ConnectionLost& lost) {
    drop(lost.what());
  }
}

size_t Channel::receive_some(void* into, size_t most) {
  if (!stream_ || most == 0) return 0;
  try {
    const size_t got = stream_->try_read(into, most);
    if (got != 0) {
      received_ += got;
      last_heard_ = Clock::now();
    }
    return got;
  } catch (const ConnectionLost& lost) {
    drop(lost.what());
    return 0;
  }
}

}  // namespace elara::net
