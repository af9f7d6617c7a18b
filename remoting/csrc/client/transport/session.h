// One client process on one device of an attachment: the command stream to the session's device server.
//
// Operators are appended to a buffer and sent without waiting; only requests wait, each for its own reply, in order.
// Whatever may still use one holds it: the device table while its attachment lasts, each tensor and event on it (a
// tensor of an ended attachment asks its session why), the flusher until it has taken leave of the server, a call under
// way.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "client/attach/attachment.h"
#include "client/transport/link.h"
#include "client/transport/welcome.h"
#include "wire/codec.h"

namespace elara::client {

struct MemoryCounters {
  std::atomic<int64_t> live{0};
  std::atomic<int64_t> peak{0};
  std::atomic<int64_t> storages{0};
  std::atomic<int64_t> allocations{0};
  std::atomic<int64_t> allocated_total{0};
  std::atomic<int64_t> refused{0};
};

struct TrafficCounters {
  std::atomic<uint64_t> executed{0};
  std::atomic<uint64_t> requests{0};
  std::atomic<uint64_t> taught{0};
  std::atomic<uint64_t> inferred{0};
  std::atomic<uint64_t> flushes{0};
  std::atomic<uint64_t> bytes_sent{0};
};

class Session : public std::enable_shared_from_this<Session> {
 public:
  static std::shared_ptr<Session> make(std::shared_ptr<const Attachment> attachment, int ordinal);
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;
  // How many there are in this process.
  static int64_t count();

  int ordinal() const { return ordinal_; }
  uint64_t epoch() const { return attachment_->epoch; }
  const AttachedDevice& device() const { return attachment_->devices[static_cast<size_t>(ordinal_)]; }
  bool is_open() const { return state_.load(std::memory_order_acquire) == State::kOpen; }
  bool is_dead() const { return state_.load(std::memory_order_acquire) == State::kDead; }

  // Connects on first use. Raises the sentence that tells why the session cannot be used.
  void require() {
    if (!is_open()) [[unlikely]] {
      open_or_raise();
    }
  }
  const DeviceFacts& facts();

  // Appends messages: `encode(Writer&)` runs under the session's lock and must neither touch tensors nor Python. Waits
  // beforehand while too much is on its way.
  template <class Encode>
  void send(Encode&& encode) {
    require();
    Link::Lock lock(link_.mutex());
    admit(lock);
    append(encode);
    after_append();
  }

  // Sends what `encode` appends, whose last message is one with a reply, and waits for that reply's payload.
  template <class Encode>
  std::string request(Encode&& encode) {
    require();
    auto answer = std::make_shared<Answer>();
    {
      Link::Lock lock(link_.mutex());
      admit(lock);
      append(encode);
      flush_locked();
      traffic.requests++;
      link_.expect(answer);
      await(lock, *answer);
    }
    return take_reply(*answer);
  }

  // As send(), for what only goes along with operators: without waiting, and only on an open session with room for it.
  // Whether it was appended.
  template <class Encode>
  bool note(Encode&& encode) {
    if (!is_open()) return false;
    Link::Lock lock(link_.mutex());
    if (link_.held() + out_.size() >= 2 * window_) return false;
    append(encode);
    after_append();
    return true;
  }

  // Many requests at once: `encode(i, Writer&)` appends number i, one message with a reply. The replies, in order.
  template <class Encode>
  std::vector<std::string> request_all(size_t count, Encode&& encode) {
    require();
    std::vector<std::string> replies;
    for (size_t done = 0; done < count;) {
      std::vector<std::shared_ptr<Answer>> answers(std::min(count - done, kMostAtOnce));
      Link::Lock lock(link_.mutex());
      admit(lock);
      append([&](wire::Writer& out) {
        for (size_t i = 0; i < answers.size(); ++i) encode(done + i, out);
      });
      flush_locked();
      for (auto& answer : answers) {
        traffic.requests++;
        link_.expect(answer = std::make_shared<Answer>());
      }
      for (const auto& answer : answers) await(lock, *answer);
      lock.unlock();
      for (const auto& answer : answers) replies.push_back(take_reply(*answer));
      done += answers.size();
    }
    return replies;
  }

  // In two steps, for messages that must reach several sessions in one order: waits while too much is on its way, and
  // then appends and sends without waiting.
  void make_room() {
    require();
    Link::Lock lock(link_.mutex());
    admit(lock);
  }
  template <class Encode>
  void post(Encode&& encode) {
    Link::Lock lock(link_.mutex());
    append(encode);
    flush_locked();
  }
  // Whether the device servers of both can copy between each other; connects them at the first question.
  bool reaches(Session& other);

  void read(uint64_t storage, uint64_t offset, uint64_t bytes, void* destination);
  void write(uint64_t storage, uint64_t offset, uint64_t bytes, const void* source);
  // Never raises and never connects: called from destructors.
  void free_storage(uint64_t storage) noexcept;
  void synchronize();
  void flush();
  // For the idle flusher: sends what has been lying in the buffer since the last call, and looks after the link. True
  // while there is more to do.
  bool flush_if_idle() noexcept;
  // Tells the device server that it will not be used any more, and closes the connection. Waits `most` at most.
  void leave(std::chrono::milliseconds most) noexcept;

  // Ends the session for ever; every later use raises `sentence`.
  void retire(const std::string& sentence) noexcept;
  // In a forked child the connection belongs to the parent.
  void forget_after_fork() noexcept;

  // Ids of `count` storages in a row.
  uint64_t take_storages(uint64_t count) { return next_storage_.fetch_add(count, std::memory_order_relaxed); }
  // Raises torch.OutOfMemoryError when `bytes` more would not fit under the lease's cap.
  void reserve(uint64_t bytes);

  // Whether this number was already sent to the server; call inside `encode` only.
  bool mark_operator(uint32_t number) { return mark(operators_, number); }
  bool mark_template(uint32_t number) { return mark(templates_, number); }
  void drop_templates(const std::vector<uint32_t>& numbers) noexcept;

  MemoryCounters memory;
  TrafficCounters traffic;
  std::vector<int64_t> told_flags;  // takeover/context.cpp's, under its lock

 private:
  Session(std::shared_ptr<const Attachment> attachment, int ordinal);
  ~Session();

  // Has `caller`'s node connect two sessions on different nodes, and tells their servers how to know each other.
  static bool meet(Session& caller, Session& called);

  static constexpr size_t kMostAtOnce = 1024;  // requests
  enum class State { kNew, kOpen, kDead };

  template <class Encode>
  void append(Encode&& encode) {
    const size_t before = out_.size();
    try {
      encode(out_);
    } catch (...) {
      out_.truncate(before);
      throw;
    }
  }

  static bool mark(std::vector<bool>& seen, uint32_t number);
  void open_or_raise();
  void open();
  void say_hello();
  // Waits while the replay window is full; `bulk`: also while the connection does not keep up.
  void admit(Link::Lock& lock, bool bulk = false) {
    if (link_.held() + out_.size() >= window_ || bulk) [[unlikely]] {
      wait_for_room(lock, bulk);
    }
  }
  void wait_for_room(Link::Lock& lock, bool bulk);
  void after_append();
  void flush_locked();
  void await(Link::Lock& lock, Answer& answer);
  std::string take_reply(Answer& answer);
  [[noreturn]] void raise_remote(const std::string& payload);
  [[noreturn]] void raise_dead();
  std::string lost_sentence(const std::string& told) const;
  std::string name() const;

  const std::shared_ptr<const Attachment> attachment_;
  const int ordinal_;

  std::atomic<State> state_{State::kNew};
  std::mutex open_mutex_;
  std::mutex state_mutex_;  // guards changes of the state, with what belongs to it
  std::string sentence_;
  DeviceFacts facts_;

  Link link_;  // its lock guards what follows too, except the atomics
  size_t window_ = 0;
  wire::Writer out_;
  size_t free_run_ = 0;               // place of a kFree at the very end of `out_` that can still grow, plus 1
  std::atomic<size_t> unflushed_{0};  // size of `out_` as last seen
  size_t unflushed_before_ = 0;       // the flusher's
  std::vector<bool> operators_;
  std::vector<bool> templates_;
  std::atomic<uint64_t> next_storage_{1};
  std::map<int, bool> reached_;  // by the ordinal of a later device of the attachment; peers.cpp's, under its lock
};

}  // namespace elara::client
