#include "net/replay_buffer.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace elara::net {

ReplayBuffer::ReplayBuffer(bool keep, uint64_t position)
    : keep_(keep), begin_(position), sent_(position), end_(position), first_block_(position / kBlock) {
  spare_.reserve(kSpare);
}

void ReplayBuffer::append(const void* data, size_t bytes) {
  if (bytes == 0) return;
  // First what may fail, then what may not.
  const uint64_t last = (end_ + bytes - 1) / kBlock;
  while (first_block_ + blocks_.size() <= last) {
    if (spare_.empty()) {
      blocks_.push_back(Block(new char[kBlock]));
    } else {
      blocks_.push_back(std::move(spare_.back()));
      spare_.pop_back();
    }
  }
  const char* from = static_cast<const char*>(data);
  while (bytes != 0) {
    const size_t at = end_ % kBlock;
    const size_t piece = std::min(bytes, kBlock - at);
    std::memcpy(blocks_[end_ / kBlock - first_block_].get() + at, from, piece);
    from += piece;
    bytes -= piece;
    end_ += piece;
  }
}

size_t ReplayBuffer::unsent_pieces(std::span<iovec> into) const {
  size_t count = 0;
  for (uint64_t at = sent_; at < end_ && count < into.size(); ++count) {
    const size_t piece = std::min<uint64_t>(end_ - at, kBlock - at % kBlock);
    into[count] = {blocks_[at / kBlock - first_block_].get() + at % kBlock, piece};
    at += piece;
  }
  return count;
}

void ReplayBuffer::note_sent(size_t bytes) {
  sent_ += bytes;
  if (!keep_) drop_before(sent_);
}

bool ReplayBuffer::acknowledge(uint64_t position) {
  if (position > sent_) return false;
  if (position > begin_) drop_before(position);
  return true;
}

void ReplayBuffer::rewind(uint64_t position) {
  drop_before(position);
  sent_ = position;
}

void ReplayBuffer::drop_before(uint64_t position) {
  begin_ = position;
  while (!blocks_.empty() && (first_block_ + 1) * kBlock <= begin_) {
    if (spare_.size() < kSpare) spare_.push_back(std::move(blocks_.front()));
    blocks_.pop_front();
    ++first_block_;
  }
  if (blocks_.empty()) first_block_ = begin_ / kBlock;
}

}  // namespace elara::net
