#include "client/transport/flusher.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "client/attach/devices.h"
#include "client/transport/session.h"

namespace elara::client {

namespace {

using namespace std::chrono_literals;

// An operator waits at most about two ticks in the buffer when nothing follows it.
constexpr auto kTick = 200us;
// After so many idle ticks the thread sleeps until it is woken, or looks at the attachment now and then.
constexpr int kIdleTicks = 50;
constexpr auto kAttachmentCheck = 250ms;
// What a session that has ended may take to tell its device server.
constexpr auto kFarewell = 500ms;

struct Flusher {
  std::mutex mutex;
  std::condition_variable wake;
  std::vector<std::shared_ptr<Session>> sessions;
  std::atomic<bool> asleep{false};
  bool started = false;

  bool tick() {
    std::vector<std::shared_ptr<Session>> open;
    std::vector<std::shared_ptr<Session>> ended;
    {
      std::lock_guard lock(mutex);
      const auto dead = std::partition(sessions.begin(), sessions.end(), [](const auto& s) { return !s->is_dead(); });
      ended.assign(dead, sessions.end());
      sessions.erase(dead, sessions.end());
      open = sessions;
    }
    // Without the lock: others want to open sessions meanwhile.
    for (const auto& session : ended) session->leave(kFarewell);
    bool busy = false;
    for (const auto& session : open) busy |= session->flush_if_idle();
    return busy;
  }

  void run() {
    int idle = 0;
    for (;;) {
      if (idle < kIdleTicks) {
        std::this_thread::sleep_for(kTick);
        idle = tick() ? 0 : idle + 1;
        continue;
      }
      {
        std::unique_lock lock(mutex);
        asleep.store(true);
        wake.wait_for(lock, kAttachmentCheck, [this] { return !asleep.load(); });
        if (!asleep.exchange(false)) idle = 0;
      }
      if (idle != 0) refresh_attachment();
      // What was appended between the last tick and `asleep` is seen here.
      if (tick()) idle = 0;
    }
  }
};

Flusher& flusher() {
  static auto* instance = new Flusher;
  return *instance;
}

}  // namespace

void watch_session(std::shared_ptr<Session> session) {
  Flusher& f = flusher();
  std::lock_guard lock(f.mutex);
  f.sessions.push_back(std::move(session));
  if (!f.started) {
    f.started = true;
    std::thread([&f] { f.run(); }).detach();
  }
}

void wake_flusher() noexcept {
  Flusher& f = flusher();
  if (!f.asleep.load(std::memory_order_relaxed)) return;
  if (f.asleep.exchange(false)) f.wake.notify_one();
}

}  // namespace elara::client
