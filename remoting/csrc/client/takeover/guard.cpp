#include "client/takeover/guard.h"

#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <c10/util/Exception.h>

#include <array>
#include <atomic>
#include <cstring>
#include <memory>

#include "client/attach/devices.h"
#include "client/transport/reply.h"
#include "client/transport/session.h"

namespace elara::client {

namespace {

thread_local std::array<c10::StreamId, kMostDevices> t_streams{};
std::atomic<c10::StreamId> g_next_stream{1};
std::atomic<uint64_t> g_next_event{1};

c10::Device device_at(int ordinal) { return {c10::kCUDA, static_cast<c10::DeviceIndex>(ordinal)}; }
c10::Stream stream_of(int ordinal, c10::StreamId id) {
  return c10::Stream(c10::Stream::UNSAFE, device_at(ordinal), id);
}
int ordinal_of(const c10::Device& device) { return device.has_index() ? device.index() : current_device(); }

// Where this thread keeps the current stream of a device.
c10::StreamId& stream_slot(int ordinal) {
  TORCH_CHECK(ordinal >= 0 && ordinal < kMostDevices, "CUDA error: invalid device ordinal");
  return t_streams[static_cast<size_t>(ordinal)];
}

struct Event {
  uint64_t id = 0;
  std::shared_ptr<Session> session;
};

void put_event_message(wire::Writer& out, wire::MessageType type, uint64_t event, c10::StreamId stream) {
  const size_t place = out.begin(type);
  out.put(event);
  out.put(static_cast<uint64_t>(stream));
  out.end(place);
}

// The number of devices it tells is constant and larger than what is attached: the autograd engine makes its queues
// once. So indices are checked where a tensor or a stream is made, not here.
class Guard final : public c10::impl::DeviceGuardImplInterface {
 public:
  c10::DeviceType type() const override { return c10::kCUDA; }
  c10::DeviceIndex deviceCount() const noexcept override { return static_cast<c10::DeviceIndex>(guard_count()); }

  c10::Device getDevice() const override { return device_at(current_device()); }
  void setDevice(c10::Device device) const override {
    if (!device.has_index()) return;
    TORCH_CHECK(device.index() >= 0 && device.index() < guard_count(), "CUDA error: invalid device ordinal");
    set_current_device(device.index());
  }
  void uncheckedSetDevice(c10::Device device) const noexcept override {
    if (device.has_index()) set_current_device(device.index());
  }
  c10::Device exchangeDevice(c10::Device device) const override {
    const c10::Device before = getDevice();
    setDevice(device);
    return before;
  }

  c10::Stream getStream(c10::Device device) const override { return current_stream(ordinal_of(device)); }
  c10::Stream getDefaultStream(c10::Device device) const override { return default_stream(ordinal_of(device)); }
  c10::Stream getNewStream(c10::Device device, int) const override {
    return stream_of(checked_ordinal(device.has_index() ? device.index() : -1), g_next_stream++);
  }
  c10::Stream getStreamFromGlobalPool(c10::Device device, bool) const override { return getNewStream(device, 0); }
  c10::Stream exchangeStream(c10::Stream stream) const override {
    auto& slot = stream_slot(stream.device_index());
    const c10::Stream before = stream_of(stream.device_index(), slot);
    slot = stream.id();
    return before;
  }
  void* getStreamNativeHandle(const c10::Stream) const override { return nullptr; }
  bool queryStream(const c10::Stream& stream) const override {
    session_at(stream.device_index())->synchronize();
    return true;
  }
  void synchronizeStream(const c10::Stream& stream) const override { session_at(stream.device_index())->synchronize(); }
  void synchronizeDevice(const c10::DeviceIndex index) const override {
    session_at(index < 0 ? current_device() : index)->synchronize();
  }

  void record(void** handle, const c10::Stream& stream, const c10::DeviceIndex, const c10::EventFlag) const override {
    auto session = session_at(stream.device_index());
    auto* event = static_cast<Event*>(*handle);
    if (event == nullptr) *handle = event = new Event{take_event(), nullptr};
    event->session = std::move(session);
    event->session->send(
        [&](wire::Writer& out) { put_event_message(out, wire::MessageType::kEventRecord, event->id, stream.id()); });
  }
  void block(void* handle, const c10::Stream& stream) const override {
    auto* event = static_cast<Event*>(handle);
    if (event == nullptr) return;
    if (event->session->ordinal() == stream.device_index()) {
      event->session->send(
          [&](wire::Writer& out) { put_event_message(out, wire::MessageType::kEventWait, event->id, stream.id()); });
    } else {
      // Devices do not hear of one another's events, so the client waits.
      event->session->synchronize();
    }
  }
  bool queryEvent(void* handle) const override {
    auto* event = static_cast<Event*>(handle);
    if (event == nullptr) return true;
    const std::string reply = event->session->request([&](wire::Writer& out) {
      const size_t place = out.begin(wire::MessageType::kEventQuery);
      out.put(event->id);
      out.end(place);
    });
    return parse_reply(*event->session, reply, [](wire::Reader& reader) { return reader.get<uint8_t>() != 0; });
  }
  void synchronizeEvent(void* handle) const override {
    if (handle != nullptr) static_cast<Event*>(handle)->session->synchronize();
  }
  double elapsedTime(void* first, void* second, const c10::DeviceIndex) const override {
    auto* start = static_cast<Event*>(first);
    auto* end = static_cast<Event*>(second);
    TORCH_CHECK(start != nullptr && end != nullptr, "Both events must be recorded before calculating elapsed time.");
    const std::string reply = end->session->request([&](wire::Writer& out) {
      const size_t place = out.begin(wire::MessageType::kEventElapsed);
      out.put(start->id);
      out.put(end->id);
      out.end(place);
    });
    return parse_reply(*end->session, reply, [](wire::Reader& reader) { return reader.get<double>(); });
  }
  void destroyEvent(void* handle, const c10::DeviceIndex) const noexcept override {
    auto* event = static_cast<Event*>(handle);
    if (event == nullptr) return;
    if (!is_forked() && event->session->is_open()) {
      try {
        event->session->send([&](wire::Writer& out) {
          const size_t place = out.begin(wire::MessageType::kEventFree);
          out.put(event->id);
          out.end(place);
        });
      } catch (...) {
        // Lost with its session.
      }
    }
    delete event;
  }
};

}  // namespace

void install_guard() {
  static auto* guard = new Guard;
  static auto* registrar = new c10::impl::DeviceGuardImplRegistrar(c10::kCUDA, guard);
  (void)registrar;
}

c10::Stream current_stream(int ordinal) { return stream_of(ordinal, stream_slot(ordinal)); }
c10::Stream default_stream(int ordinal) { return stream_of(ordinal, 0); }
void set_current_stream(int ordinal, c10::StreamId id) { stream_slot(ordinal) = id; }
uint64_t take_event() { return g_next_event++; }

}  // namespace elara::client
