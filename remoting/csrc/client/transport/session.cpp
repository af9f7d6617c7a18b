#include "client/transport/session.h"

#include <c10/util/Exception.h>
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
#include "client/transport/settings.h"
#include "client/transport/welcome.h"
#include "ops/op_lists.h"

namespace elara::client {

namespace {

// A full buffer is sent at once. Small enough that the server starts early, large enough that a system call is shared
// by about 150 operators.
constexpr size_t kFlushBytes = 8192;
// Smaller writes are copied behind the operators before them.
constexpr uint64_t kInlineWrite = 16384;
// An upload goes in pieces, between which it can be interrupted. It is copied no faster than it goes out, so that the
// copy is still in the processor's cache when it does.
constexpr uint64_t kUploadPiece = 1u << 20;
constexpr size_t kMostUnsent = 2u << 20;
constexpr std::chrono::milliseconds kOpeningTime{20'000};

std::atomic<int64_t> g_sessions{0};

}  // namespace

Session::Session(std::shared_ptr<const Attachment> attachment, int ordinal)
    : attachment_(std::move(attachment)), ordinal_(ordinal) {
  g_sessions.fetch_add(1, std::memory_order_relaxed);
}

Session::~Session() { g_sessions.fetch_sub(1, std::memory_order_relaxed); }

std::shared_ptr<Session> Session::make(std::shared_ptr<const Attachment> attachment, int ordinal) {
  // In a forked child nothing is freed: a thread that the child does not have may be using it.
  return {new Session(std::move(attachment), ordinal), [](Session* session) {
            if (!is_forked()) delete session;
          }};
}

int64_t Session::count() { return g_sessions.load(std::memory_order_relaxed); }

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
    say_hello();
  } catch (const c10::Error&) {
    throw;
  } catch (const std::exception& error) {
    // Not sticky: nothing was lost yet, and the node may be there at the next try.
    TORCH_CHECK(false, "CUDA error: cannot open a session on ", name(), ": ", readable(error.what()));
  }
  {
    std::lock_guard lock(state_mutex_);
    // The attachment may have ended meanwhile.
    if (state_ != State::kDead) state_.store(State::kOpen, std::memory_order_release);
  }
  watch_session(shared_from_this());
  if (is_open()) on_session_opened(*this);
}

void Session::say_hello() {
  const std::shared_ptr<net::Stream> stream = connect_device(*attachment_, device(), false, kOpeningTime);
  stream->set_deadline(net::Clock::now() + kOpeningTime);
  wire::Writer hello;
  size_t place = hello.begin(wire::MessageType::kHello);
  hello.put(wire::kProtocolVersion);
  hello.str(TORCH_VERSION);
  hello.bytes(ops::digest().data(), ops::digest().size());
  hello.bytes(device().secret.data(), device().secret.size());
  hello.str("python " + std::to_string(::getpid()));
  hello.put(static_cast<uint32_t>(transport_settings().grace.count()));
  hello.end(place);
  stream->write_all(hello.data(), hello.size());

  Welcome welcome = read_welcome(*stream);
  stream->set_deadline(std::nullopt);
  if (welcome.type == wire::MessageType::kError) raise_remote(welcome.payload);
  facts_ = std::move(welcome.facts);

  Link::Owner owner;
  owner.reconnect = [this](std::chrono::milliseconds most) {
    return connect_device(*attachment_, device(), true, most);
  };
  owner.lost = [this](const std::string& reason) { retire(lost_sentence(reason)); };
  owner.dead = [this] { return is_dead(); };
  owner.self = weak_from_this();
  owner.secret.assign(device().secret.begin(), device().secret.end());
  Link::Lock lock(link_.mutex());
  window_ = transport_settings().replay_bytes;
  link_.open(std::move(owner), stream, hello.size(), wire::kHeaderBytes + welcome.payload.size(), welcome.grace);
}

const DeviceFacts& Session::facts() {
  require();
  return facts_;
}

void Session::retire(const std::string& sentence) noexcept {
  std::lock_guard lock(state_mutex_);
  if (state_ == State::kDead) return;
  sentence_ = sentence;
  // Whoever waits looks at the state a few times a second; the flusher takes leave of the server.
  state_.store(State::kDead, std::memory_order_release);
}

std::string Session::lost_sentence(const std::string& told) const {
  const std::string reason = readable(told);
  const std::string stop = reason.ends_with('.') ? " " : ". ";
  return "CUDA error: " + name() + " is gone. " + reason + stop +
         "Its tensors are lost; attach a GPU again, then create them anew or load them from a checkpoint.";
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
  link_.forget_after_fork();
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
  traffic.flushes++;
  traffic.bytes_sent += out_.size();
  link_.put(out_.data(), out_.size());
  out_.clear();
  unflushed_.store(0, std::memory_order_relaxed);
}

void Session::wait_for_room(Link::Lock& lock, bool bulk) {
  flush_locked();
  link_.wait(lock,
             [&] { return link_.held() < window_ && !(bulk && link_.connected() && link_.unsent() >= kMostUnsent); });
  if (is_dead()) raise_dead();
}

void Session::flush() {
  require();
  Link::Lock lock(link_.mutex());
  flush_locked();
}

bool Session::flush_if_idle() noexcept {
  const size_t now = unflushed_.load(std::memory_order_relaxed);
  bool more = now != 0;
  Link::Lock lock(link_.mutex(), std::try_to_lock);
  if (!lock.owns_lock()) return true;
  try {
    if (now != 0 && now == unflushed_before_) flush_locked();
    link_.look_after();
    more = more || (link_.connected() && link_.unsent() != 0);
  } catch (...) {
    // No memory at this moment; the next tick tries again.
  }
  unflushed_before_ = now;
  return more;
}

void Session::leave(std::chrono::milliseconds most) noexcept {
  if (is_forked()) return;
  try {
    {
      Link::Lock lock(link_.mutex());
      flush_locked();
      out_.release();
      std::vector<bool>().swap(operators_);
      std::vector<bool>().swap(templates_);
    }
    link_.leave(most);
  } catch (...) {
    // The server finds out by itself, when the grace is over.
  }
}

void Session::free_storage(uint64_t storage) noexcept {
  if (is_forked() || !is_open()) return;
  try {
    Link::Lock lock(link_.mutex());
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
    const uint64_t piece = std::min<uint64_t>(bytes, kUploadPiece);
    Link::Lock lock(link_.mutex());
    admit(lock, /*bulk=*/piece > kInlineWrite);
    const size_t place = out_.begin(wire::MessageType::kWrite);
    out_.put(storage);
    out_.put(offset);
    if (piece <= kInlineWrite) {
      out_.bytes(from, piece);
      out_.end(place);
      after_append();
    } else {
      out_.end(place, piece);
      traffic.flushes++;
      traffic.bytes_sent += out_.size() + piece;
      link_.put(out_.data(), out_.size(), from, piece);
      out_.clear();
      free_run_ = 0;
      unflushed_.store(0, std::memory_order_relaxed);
    }
    from += piece;
    offset += piece;
    bytes -= piece;
  }
}

void Session::drop_templates(const std::vector<uint32_t>& numbers) noexcept {
  if (is_forked() || !is_open()) return;
  try {
    Link::Lock lock(link_.mutex());
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
