#include "client/attach/devices.h"

#include <c10/util/Exception.h>
#include <pthread.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <ctime>
#include <mutex>
#include <utility>
#include <vector>

#include "client/transport/flusher.h"
#include "client/transport/session.h"

namespace elara::client {

namespace {

constexpr int64_t kPollNanoseconds = 50'000'000;

struct Table {
  std::mutex mutex;  // guards what follows, except the atomics and the sessions
  std::unique_ptr<AttachmentFile> file;
  std::shared_ptr<const Attachment> attachment = std::make_shared<Attachment>();
  std::mutex sessions_mutex;  // held for no longer than it takes to copy or exchange a pointer
  std::array<std::shared_ptr<Session>, kMostDevices> sessions{};
  std::atomic<int> count{0};
  std::atomic<int64_t> next_poll{0};
  int guards = 8;
  std::vector<SessionOpened> listeners;
};

// Leaked on purpose: tensors may outlive static destruction.
Table& table() {
  static auto* instance = new Table;
  return *instance;
}

std::atomic<bool> g_forked{false};
thread_local int t_current_device = 0;

int64_t coarse_now() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
  return now.tv_sec * 1'000'000'000 + now.tv_nsec;
}

std::string ended_sentence(const Attachment& now) {
  if (now.state == AttachmentState::kAttached) {
    return "CUDA error: this tensor belongs to an earlier attachment, whose GPU memory is gone. Create it anew on the "
           "GPU "
           "that is attached now, or load it from a checkpoint.";
  }
  const bool lost = now.state == AttachmentState::kLost;
  const std::string reason = now.reason.empty() ? std::string() : " (" + now.reason + ")";
  return std::string("CUDA error: the GPU was ") + (lost ? "lost" : "detached") + reason +
         ". Tensors that were on it are gone; attach a GPU again, then create them anew or load them from a "
         "checkpoint.";
}

// Takes the table's lock by argument: the caller holds it.
void adopt(Table& t, std::shared_ptr<const Attachment> next) {
  const bool same_devices = t.attachment->epoch == next->epoch && t.attachment->state == next->state &&
                            t.attachment->devices.size() == next->devices.size();
  if (!same_devices) {
    const std::string sentence = ended_sentence(*next);
    const int count = std::min<int>(static_cast<int>(next->devices.size()), t.guards);
    std::array<std::shared_ptr<Session>, kMostDevices> sessions;
    for (int i = 0; i < count; ++i) sessions[static_cast<size_t>(i)] = Session::make(next, i);
    {
      std::lock_guard lock(t.sessions_mutex);
      t.sessions.swap(sessions);
    }
    // Between the exchange and this an operator may still reach the old session, as it might have a moment earlier.
    for (const auto& old : sessions) {
      if (old) old->retire(sentence);
    }
    t.count.store(count);
  }
  t.attachment = std::move(next);
}

void forked_child() {
  g_forked.store(true);
  // Without the lock, which another thread may have held.
  for (const auto& session : table().sessions) {
    if (session) session->forget_after_fork();
  }
}

// Null when there is none.
std::shared_ptr<Session> slot_at(int ordinal) {
  Table& t = table();
  if (ordinal < 0 || ordinal >= kMostDevices) return nullptr;
  std::lock_guard lock(t.sessions_mutex);
  return t.sessions[static_cast<size_t>(ordinal)];
}

[[noreturn]] void raise_no_device(const Attachment& now) {
  if (now.state == AttachmentState::kLost || now.state == AttachmentState::kDetached) {
    TORCH_CHECK(false, "No CUDA GPUs are available: ",
                now.state == AttachmentState::kLost ? "the GPU was lost" : "the GPU was detached",
                now.reason.empty() ? "" : " (" + now.reason + ")", ". Attach one, then run this again.");
  }
  TORCH_CHECK(false,
              "No CUDA GPUs are available: none is attached to this workspace. Attach one, then run this again.");
}

}  // namespace

void configure_devices(const std::string& runtime_dir, int guards) {
  Table& t = table();
  std::lock_guard lock(t.mutex);
  t.guards = std::clamp(guards, 1, kMostDevices);
  t.file = std::make_unique<AttachmentFile>(runtime_dir + "/attachment");
  pthread_atfork(nullptr, nullptr, forked_child);
}

int guard_count() { return table().guards; }

void refresh_attachment() {
  if (is_forked()) return;
  Table& t = table();
  std::lock_guard lock(t.mutex);
  t.next_poll.store(coarse_now() + kPollNanoseconds, std::memory_order_relaxed);
  if (!t.file) return;
  if (auto next = t.file->changed()) adopt(t, std::move(next));
}

void poll_attachment() {
  if (coarse_now() >= table().next_poll.load(std::memory_order_relaxed)) [[unlikely]] {
    refresh_attachment();
  }
}

int attached_count() {
  refresh_attachment();
  return table().count.load();
}

std::shared_ptr<const Attachment> current_attachment() {
  Table& t = table();
  std::lock_guard lock(t.mutex);
  return t.attachment;
}

int current_device() { return t_current_device; }
void set_current_device(int ordinal) { t_current_device = ordinal; }

std::shared_ptr<Session> session_at(int ordinal) {
  if (is_forked()) raise_forked();
  poll_attachment();
  std::shared_ptr<Session> session = slot_at(ordinal);
  if (!session) [[unlikely]] {
    refresh_attachment();
    checked_ordinal(ordinal);
    session = slot_at(ordinal);
    TORCH_CHECK(session != nullptr, "CUDA error: invalid device ordinal");
  }
  session->require();
  return session;
}

std::shared_ptr<Session> open_session(int ordinal) {
  if (is_forked()) return nullptr;
  std::shared_ptr<Session> session = slot_at(ordinal);
  return session && session->is_open() ? session : nullptr;
}

int checked_ordinal(int ordinal) {
  if (is_forked()) raise_forked();
  poll_attachment();
  const int asked = ordinal < 0 ? t_current_device : ordinal;
  int count = table().count.load();
  // Before refusing, make sure: the attachment may be younger than the last look.
  if (asked >= count) count = attached_count();
  if (count == 0) raise_no_device(*current_attachment());
  TORCH_CHECK(asked < count, "CUDA error: invalid device ordinal\ncuda:", asked, " was asked for, but ", count,
              count == 1 ? " device is attached" : " devices are attached", " (cuda:0",
              count > 1 ? " to cuda:" + std::to_string(count - 1) : "", ").");
  return asked;
}

void visit_open_sessions(const std::function<void(Session&)>& visit) {
  for (int i = 0; i < kMostDevices && !is_forked(); ++i) {
    const std::shared_ptr<Session> session = slot_at(i);
    if (session && session->is_open()) visit(*session);
  }
}

void add_session_listener(SessionOpened listener) {
  Table& t = table();
  std::lock_guard lock(t.mutex);
  t.listeners.push_back(listener);
}

void on_session_opened(Session& session) {
  std::vector<SessionOpened> listeners;
  {
    Table& t = table();
    std::lock_guard lock(t.mutex);
    listeners = t.listeners;
  }
  for (const auto listener : listeners) listener(session);
}

bool is_forked() { return g_forked.load(std::memory_order_relaxed); }

void raise_forked() {
  TORCH_CHECK(false,
              "Cannot re-initialize CUDA in forked subprocess. To use CUDA with multiprocessing, you must use the "
              "'spawn' start method");
}

}  // namespace elara::client
