#include "client/attach/devices.h"

#include <c10/util/Exception.h>
#include <pthread.h>
#include <time.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <mutex>
#include <vector>

#include "client/transport/flusher.h"
#include "client/transport/session.h"

namespace elara::client {

namespace {

constexpr int64_t kPollNanoseconds = 50'000'000;

struct Table {
  std::mutex mutex;  // guards what follows, except the atomics
  std::unique_ptr<AttachmentFile> file;
  std::shared_ptr<const Attachment> attachment = std::make_shared<Attachment>();
  std::array<std::atomic<Session*>, kMostDevices> sessions{};
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
    for (auto& slot : t.sessions) {
      if (Session* old = slot.exchange(nullptr)) old->retire(sentence);
    }
    const int count = std::min<int>(static_cast<int>(next->devices.size()), t.guards);
    for (int i = 0; i < count; ++i) t.sessions[static_cast<size_t>(i)].store(new Session(next, i));
    t.count.store(count);
  }
  t.attachment = std::move(next);
}

void forked_child() {
  g_forked.store(true);
  for (auto& slot : table().sessions) {
    if (Session* session = slot.load()) session->forget_after_fork();
  }
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

Session& session_at(int ordinal) {
  poll_attachment();
  Table& t = table();
  if (ordinal >= 0 && ordinal < kMostDevices) {
    if (Session* session = t.sessions[static_cast<size_t>(ordinal)].load(std::memory_order_acquire)) {
      session->require();
      return *session;
    }
  }
  if (is_forked()) raise_forked();
  refresh_attachment();
  checked_ordinal(ordinal);
  Session* session = t.sessions[static_cast<size_t>(ordinal)].load();
  TORCH_CHECK(session != nullptr, "CUDA error: invalid device ordinal");
  session->require();
  return *session;
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
  for (auto& slot : table().sessions) {
    Session* session = slot.load();
    if (session != nullptr && session->is_open()) visit(*session);
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
