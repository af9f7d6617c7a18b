#include "client/transport/session.h"

#include <c10/util/Exception.h>
#include <sys/uio.h>
#include <torch/version.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "client/attach/devices.h"
#include "client/install.h"
#include "client/transport/connect.h"
#include "client/transport/flusher.h"
#include "client/transport/readable.h"
#include "client/transport/remote_error.h"
#include "ops/op_lists.h"

namespace elara::client {

namespace {

// A full buffer is sent at once. Small enough that the server starts early, large enough that a system call is shared
// by about 150 operators.
constexpr size_t kFlushBytes = 8192;
// Smaller writes are copied behind the operators before them; larger ones go out from where they lie.
constexpr uint64_t kInlineWrite = 16384;

}  // namespace

Session::Session(std::shared_ptr<const Attachment> attachment, int ordinal)
    : attachment_(std::move(attachment)), ordinal_(ordinal) {}

std::string Session::name() const { return "cuda:" + std::to_string(ordinal_) + " (" + device().model + ")"; }

// ---- life

void Session::open_or_raise() {
  if (is_forked()) raise_forked();
  if (is_dead()) raise_dead();
  std::lock_guard lock(open_mutex_);
  if (state_ == State::kNew) open();
  if (is_dead()) raise_dead();
}

void Session::open() {
  activate();
  try {
    stream_ = connect_device(*attachment_, device());
    say_hello();
  } catch (const c10::Error&) {
    stream_.reset();
    throw;
  } catch (const std::exception& error) {
    // Not sticky: nothing was lost yet, and the node may be there at the next try.
    stream_.reset();
    TORCH_CHECK(false, "CUDA error: cannot open a session on ", name(), ": ", readable(error.what()));
  }
  {
    std::lock_guard lock(state_mutex_);
    // The attachment may have ended meanwhile.
    if (state_ == State::kDead) return;
    state_.store(State::kOpen, std::memory_order_release);
  }
  watch_session(this);
  on_session_opened(*this);
}

void Session::say_hello() {
  wire::Writer hello;
  const size_t place = hello.begin(wire::MessageType::kHello);
  hello.put(wire::kProtocolVersion);
  hello.str(TORCH_VERSION);
  hello.bytes(ops::digest().data(), ops::digest().size());
  hello.bytes(device().secret.data(), device().secret.size());
  hello.str("python " + std::to_string(::getpid()));
  hello.end(place);
  stream_->write_all(hello.data(), hello.size());
  const auto header = read_header();
  const std::string payload = read_payload(header);
  wire::Reader reader(payload);
  if (header.type == wire::MessageType::kFatal) throw std::runtime_error(std::string(reader.str()));
  if (header.type == wire::MessageType::kError) raise_remote(payload);
  const auto version = reader.get<uint16_t>();
  if (version != wire::kProtocolVersion) {
    throw std::runtime_error("the node speaks version " + std::to_string(version) + " of the protocol, this client " +
                             std::to_string(wire::kProtocolVersion) + "; update the older of the two");
  }
  facts_.torch_version = reader.str();
  facts_.model = reader.str();
  facts_.memory_cap = reader.get<uint64_t>();
  facts_.emulated = reader.get<uint8_t>() != 0;
  facts_.memory_total = reader.get<uint64_t>();
}

const DeviceFacts& Session::facts() {
  require();
  return facts_;
}

void Session::retire(const std::string& sentence) noexcept {
  {
    std::lock_guard lock(state_mutex_);
    if (state_ == State::kDead) return;
    // Wakes whoever waits in a read or a write; the stream itself stays until the last of them has left. While it is
    // only being opened, the thread that does so owns it, and finds out when it is done.
    if (state_ == State::kOpen) stream_->shutdown();
    sentence_ = sentence;
    state_.store(State::kDead, std::memory_order_release);
  }
  // Whoever was about to wait for its turn has begun to, or sees the new state.
  {
    std::lock_guard lock(reply_mutex_);
  }
  reply_turn_.notify_all();
}

void Session::lose(const std::string& told) {
  const std::string reason = readable(told);
  const std::string stop = reason.ends_with('.') ? " " : ". ";
  retire("CUDA error: " + name() + " is gone. " + reason + stop +
         "Its tensors are lost; attach a GPU again, then create them anew or load them from a checkpoint.");
  raise_dead();
}

void Session::raise_dead() {
  std::string sentence;
  {
    std::lock_guard lock(state_mutex_);
    sentence = sentence_;
  }
  TORCH_CHECK(false, sentence);
}

void Session::forget_after_fork() noexcept {
  // No lock may be taken here (another thread may have held it at the fork), nothing may be said on the parent's
  // connection, and nothing freed: only this process's copy of the descriptor goes.
  if (stream_) ::close(stream_->fd());
  // Every use asks open_or_raise() from now on, which knows of the fork.
  state_.store(State::kDead, std::memory_order_release);
}

// ---- sending

bool Session::mark(std::vector<bool>& seen, uint32_t number) {
  if (number >= seen.size()) seen.resize(std::max<size_t>(number + 1, seen.size() * 2), false);
  if (seen[number]) return false;
  seen[number] = true;
  return true;
}

void Session::after_append() {
  free_run_ = 0;
  if (out_.size() >= kFlushBytes) {
    flush_locked();
    return;
  }
  if (unflushed_.exchange(out_.size(), std::memory_order_relaxed) == 0) wake_flusher();
}

void Session::flush_locked() {
  free_run_ = 0;
  if (out_.empty()) return;
  write_through(nullptr, 0);
}

// Sends the buffer and `data` behind it, without copying either.
void Session::write_through(const void* data, size_t bytes) {
  if (is_dead()) raise_dead();
  traffic.flushes++;
  traffic.bytes_sent += out_.size() + bytes;
  const iovec pieces[2] = {{out_.data(), out_.size()}, {const_cast<void*>(data), bytes}};
  try {
    stream_->write_all(std::span(pieces, bytes != 0 ? 2 : 1));
  } catch (const std::exception& error) {
    out_.clear();
    unflushed_.store(0, std::memory_order_relaxed);
    if (is_dead()) raise_dead();
    lose(error.what());
  }
  out_.clear();
  unflushed_.store(0, std::memory_order_relaxed);
}

void Session::flush() {
  require();
  std::lock_guard lock(mutex_);
  flush_locked();
}

bool Session::flush_if_idle() noexcept {
  const size_t now = unflushed_.load(std::memory_order_relaxed);
  if (now != 0 && now == unflushed_before_) {
    std::unique_lock lock(mutex_, std::try_to_lock);
    if (lock.owns_lock() && is_open()) {
      try {
        flush_locked();
      } catch (...) {
        // The session is lost now; whoever uses it next is told.
      }
    }
  }
  unflushed_before_ = now;
  return now != 0;
}

void Session::free_storage(uint64_t storage) noexcept {
  if (is_forked() || !is_open()) return;
  try {
    std::lock_guard lock(mutex_);
    if (free_run_ != 0) {
      // Another free right behind the last one only makes that message longer.
      const size_t place = free_run_ - 1;
      out_.put(storage);
      out_.end(place);
      unflushed_.store(out_.size(), std::memory_order_relaxed);
    } else {
      const size_t place = out_.begin(wire::MessageType::kFree);
      out_.put(storage);
      out_.end(place);
      after_append();
      if (!out_.empty()) free_run_ = place + 1;
    }
    if (out_.size() >= kFlushBytes) flush_locked();
  } catch (...) {
    // Lost: the server is gone and has freed everything.
  }
}

void Session::write(uint64_t storage, uint64_t offset, uint64_t bytes, const void* source) {
  require();
  const char* from = static_cast<const char*>(source);
  while (bytes != 0) {
    const uint64_t piece = std::min<uint64_t>(bytes, wire::kChunkBytes);
    std::lock_guard lock(mutex_);
    const size_t place = out_.begin(wire::MessageType::kWrite);
    out_.put(storage);
    out_.put(offset);
    if (piece <= kInlineWrite) {
      out_.bytes(from, piece);
      out_.end(place);
      after_append();
    } else {
      out_.end(place, piece);
      free_run_ = 0;
      write_through(from, piece);
    }
    from += piece;
    offset += piece;
    bytes -= piece;
  }
}

void Session::drop_templates(const std::vector<uint32_t>& numbers) noexcept {
  if (is_forked() || !is_open()) return;
  try {
    std::lock_guard lock(mutex_);
    const size_t place = out_.begin(wire::MessageType::kDropTemplates);
    for (const uint32_t number : numbers) {
      if (number >= templates_.size() || !templates_[number]) continue;
      templates_[number] = false;
      out_.put(number);
    }
    out_.end(place);
    after_append();
  } catch (...) {
  }
}

void Session::reserve(uint64_t bytes) {
  const auto live = static_cast<uint64_t>(std::max<int64_t>(memory.live.load(std::memory_order_relaxed), 0));
  if (facts_.memory_cap == 0 || live + bytes <= facts_.memory_cap) [[likely]] {
    return;
  }
  memory.refused++;
  raise_out_of_memory(*this, bytes, live);
}

}  // namespace elara::client
