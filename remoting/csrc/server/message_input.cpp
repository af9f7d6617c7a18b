#include "server/message_input.h"

#include <algorithm>
#include <cstring>

namespace elara::server {

void MessageInput::fill(size_t count) {
  if (end_ - begin_ >= count) return;
  if (begin_ + count > buffer_.size() || begin_ == end_) {
    std::memmove(buffer_.data(), buffer_.data() + begin_, end_ - begin_);
    end_ -= begin_;
    begin_ = 0;
    // Headers bound `count`, so a forged length costs at most one payload's worth of memory.
    if (count > buffer_.size()) buffer_.resize(count);
  }
  while (end_ - begin_ < count) end_ += stream_.read_some(buffer_.data() + end_, buffer_.size() - end_);
}

wire::Header MessageInput::header() {
  fill(wire::kHeaderBytes);
  const wire::Header header = wire::decode_header(buffer_.data() + begin_);
  begin_ += wire::kHeaderBytes;
  return header;
}

const char* MessageInput::bytes(size_t count) {
  fill(count);
  const char* at = buffer_.data() + begin_;
  begin_ += count;
  return at;
}

void MessageInput::bytes_into(char* into, size_t count) {
  const size_t buffered = std::min(count, end_ - begin_);
  if (into != nullptr && buffered != 0) std::memcpy(into, buffer_.data() + begin_, buffered);
  begin_ += buffered;
  size_t left = count - buffered;
  if (into != nullptr) {
    stream_.read_exact(into + buffered, left);
    return;
  }
  // What is left is longer than the buffered rest, so the buffer is empty.
  while (left != 0) left -= stream_.read_some(buffer_.data(), std::min(left, buffer_.size()));
  begin_ = end_ = 0;
}

}  // namespace elara::server
