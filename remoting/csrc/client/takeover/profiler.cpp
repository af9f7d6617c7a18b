#include "client/takeover/profiler.h"

#include <c10/util/ApproximateClock.h>
#include <c10/util/Exception.h>
#include <torch/csrc/profiler/stubs/base.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "client/attach/devices.h"
#include "client/takeover/guard.h"
#include "client/transport/reply.h"
#include "client/transport/session.h"

namespace elara::client {

namespace {

namespace profiler = torch::profiler::impl;

// Marks of one session in the order of its stream. A profile asks for the times of all its operators, one pair after
// another, so at the first question all are fetched: one exchange for many, not one for each.
class Marks {
 public:
  explicit Marks(std::shared_ptr<Session> session) : session_(std::move(session)) {}

  const std::shared_ptr<Session>& session() const { return session_; }

  // Whether no more can be added: a profile has been read.
  bool closed() {
    std::lock_guard lock(mutex_);
    return fetched_;
  }

  // Nothing when these are closed, when it does not fit into the connection's buffer, or when there are too many.
  std::optional<size_t> add() {
    std::lock_guard lock(mutex_);
    if (fetched_ || live_ >= kMost) return std::nullopt;
    const uint64_t event = take_event();
    const c10::StreamId stream = current_stream(session_->ordinal()).id();
    const bool sent = session_->note([&](wire::Writer& out) {
      const size_t place = out.begin(wire::MessageType::kEventRecord);
      out.put(event);
      out.put(static_cast<uint64_t>(stream));
      out.end(place);
    });
    if (!sent) return std::nullopt;
    events_.push_back(event);
    ++live_;
    return events_.size() - 1;
  }

  void remove(size_t index) noexcept {
    try {
      std::lock_guard lock(mutex_);
      const uint64_t event = std::exchange(events_[index], 0);
      --live_;
      session_->note([&](wire::Writer& out) {
        const size_t place = out.begin(wire::MessageType::kEventFree);
        out.put(event);
        out.end(place);
      });
    } catch (...) {
      // Lost with its session.
    }
  }

  uint64_t event(size_t index) {
    std::lock_guard lock(mutex_);
    return events_[index];
  }

  // Milliseconds from one to the other; waits for the device the first time.
  double between(size_t first, size_t second) {
    fetch();
    std::lock_guard lock(mutex_);
    return at_[second] - at_[first];
  }

  double ask(uint64_t first, uint64_t second) const {
    const std::string reply = session_->request([&](wire::Writer& out) { put_question(out, first, second); });
    return read(reply);
  }

 private:
  static void put_question(wire::Writer& out, uint64_t first, uint64_t second) {
    const size_t place = out.begin(wire::MessageType::kEventElapsed);
    out.put(first);
    out.put(second);
    out.end(place);
  }

  double read(const std::string& reply) const {
    return parse_reply(*session_, reply, [](wire::Reader& reader) { return reader.get<double>(); });
  }

  // From each to the next and not from the first to each: a GPU tells a distance in single precision.
  void fetch() {
    std::vector<size_t> kept;
    std::vector<uint64_t> events;
    {
      std::lock_guard lock(mutex_);
      if (fetched_) return;
      fetched_ = true;
      at_.resize(events_.size(), 0);
      for (size_t i = 0; i < events_.size(); ++i) {
        if (events_[i] == 0) continue;
        kept.push_back(i);
        events.push_back(events_[i]);
      }
    }
    if (kept.size() < 2) return;
    const std::vector<std::string> replies = session_->request_all(
        kept.size() - 1, [&](size_t i, wire::Writer& out) { put_question(out, events[i], events[i + 1]); });
    std::lock_guard lock(mutex_);
    for (size_t i = 0; i < replies.size(); ++i) at_[kept[i + 1]] = at_[kept[i]] + read(replies[i]);
  }

  // A device server holds no more than four million events of a session, and ends one that asks for more.
  static constexpr int64_t kMost = 1 << 20;
  inline static std::atomic<int64_t> live_{0};  // of all sessions

  const std::shared_ptr<Session> session_;
  std::mutex mutex_;
  std::vector<uint64_t> events_;  // 0: no longer wanted
  std::vector<double> at_;        // milliseconds since the first of them
  bool fetched_ = false;
};

std::mutex g_mutex;
std::weak_ptr<Marks> g_marks;  // those that are added to now; a profile that is over keeps no session alive

std::shared_ptr<Marks> marks_of(const std::shared_ptr<Session>& session) {
  std::lock_guard lock(g_mutex);
  std::shared_ptr<Marks> marks = g_marks.lock();
  if (!marks || marks->session() != session || marks->closed()) {
    marks = std::make_shared<Marks>(session);
    g_marks = marks;
  }
  return marks;
}

// One moment; without `marks` one that is not known, such as before a device was in use.
struct Mark {
  Mark() = default;
  Mark(std::shared_ptr<Marks> all, size_t place) : marks(std::move(all)), index(place) {}
  Mark(const Mark&) = delete;
  Mark& operator=(const Mark&) = delete;
  ~Mark() {
    if (marks) marks->remove(index);
  }

  std::shared_ptr<Marks> marks;
  size_t index = 0;
};

// Around every operator of a profile, also those on the CPU: never waits, raises, or connects.
std::shared_ptr<void> make_mark() {
  static auto* nowhere = new std::shared_ptr<void>(std::make_shared<Mark>());
  const std::shared_ptr<Session> session = open_session(current_device());
  if (!session) return *nowhere;
  std::shared_ptr<Marks> marks = marks_of(session);
  const auto index = marks->add();
  return index ? std::make_shared<Mark>(std::move(marks), *index) : *nowhere;
}

class Stubs final : public profiler::ProfilerStubs {
 public:
  bool enabled() const override { return true; }

  void record(c10::DeviceIndex* device, profiler::ProfilerVoidEventStub* event, int64_t* cpu_ns) const override {
    if (device != nullptr) *device = static_cast<c10::DeviceIndex>(current_device());
    if (cpu_ns != nullptr) *cpu_ns = c10::getTime();
    *event = make_mark();
  }

  // Microseconds. An error is no news here, for whoever uses the device is told; 0 is taken for "not known".
  float elapsed(const profiler::ProfilerVoidEventStub* first,
                const profiler::ProfilerVoidEventStub* second) const override {
    const auto* start = static_cast<const Mark*>(first->get());
    const auto* end = static_cast<const Mark*>(second->get());
    if (start == nullptr || end == nullptr || !start->marks || !end->marks) return 0;
    try {
      double milliseconds = 0;
      if (start->marks == end->marks) {
        milliseconds = start->marks->between(start->index, end->index);
      } else if (start->marks->session() == end->marks->session()) {
        milliseconds = end->marks->ask(start->marks->event(start->index), end->marks->event(end->index));
      }
      return static_cast<float>(milliseconds * 1000);
    } catch (const c10::Error&) {
      return 0;
    }
  }

  void onEachDevice(std::function<void(int)> visit) const override {
    std::vector<int> open;
    visit_open_sessions([&](Session& session) { open.push_back(session.ordinal()); });
    const int before = current_device();
    for (const int ordinal : open) {
      set_current_device(ordinal);
      visit(ordinal);
    }
    set_current_device(before);
  }

  void synchronize() const override {
    if (const auto session = open_session(current_device())) session->synchronize();
  }

  // Marks for a profiler of CUDA: nobody listens here.
  void mark(const char*) const override {}
  void rangePush(const char*) const override {}
  void rangePop() const override {}
};

}  // namespace

void install_profiler() {
  static auto* stubs = new Stubs;
  profiler::registerCUDAMethods(stubs);
}

}  // namespace elara::client
