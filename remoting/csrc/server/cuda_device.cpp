// A CUDA device, through torch's own tensors, guards and events: it needs no CUDA headers to build, and the same
// library serves a CPU build of torch, where there is no such device.
//
// Operators, copies and events of a session run on one stream, in the order of its messages. Contents pass through a
// ring of pinned buffers, so that the network fills one while the device copies from another.
#include <ATen/ATen.h>
#include <c10/core/Allocator.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <stdexcept>

#include "server/device.h"

namespace elara::server {

namespace {

class CudaMark final : public Mark {
 public:
  explicit CudaMark(const c10::Stream& stream) : event_(stream.device_type(), c10::EventFlag::BACKEND_DEFAULT) {
    event_.record(stream);
  }
  bool reached() const override { return event_.query(); }
  double milliseconds_since(const Mark& earlier) const override {
    return static_cast<const CudaMark&>(earlier).event_.elapsedTime(event_);
  }

 private:
  c10::Event event_;
};

// A pinned buffer and the copy that last used it.
class Stage {
 public:
  Stage(c10::Device device, int64_t bytes)
      : buffer_(at::empty({bytes}, at::TensorOptions().dtype(at::kByte).pinned_memory(true))),
        copied_(device.type(), c10::EventFlag::PYTORCH_DEFAULT) {}

  char* data() { return static_cast<char*>(buffer_.mutable_data_ptr()); }
  at::Tensor part(uint64_t bytes) { return buffer_.narrow(0, 0, static_cast<int64_t>(bytes)); }
  void mark_copy(const c10::Stream& stream) { copied_.record(stream); }
  void wait() { copied_.synchronize(); }

 private:
  at::Tensor buffer_;
  c10::Event copied_;
};

class CudaDevice final : public Device {
 public:
  explicit CudaDevice(c10::Device device)
      : Device(device), implementation_((check(device), device.type())), guard_(device) {
    for (auto& stage : stages_) stage = std::make_unique<Stage>(device, kStageBytes);
  }

  c10::Storage allocate(uint64_t bytes) override { return new_storage(bytes, c10::GetAllocator(device().type())); }
  void copy(c10::Storage& to, const c10::Storage& from, uint64_t bytes) override {
    if (bytes != 0) window(to, 0, bytes).copy_(window(from, 0, bytes), /*non_blocking=*/true);
  }
  void upload(const c10::Storage& to, uint64_t offset, uint64_t bytes, const Fill& fill) override {
    if (on_host(to)) {
      if (bytes != 0) fill(static_cast<char*>(to.mutable_data()) + offset, bytes);
      return;
    }
    for (uint64_t done = 0; done < bytes;) {
      const uint64_t piece = std::min<uint64_t>(bytes - done, kStageBytes);
      Stage& stage = next_stage();
      fill(stage.data(), piece);
      window(to, offset + done, piece).copy_(stage.part(piece), /*non_blocking=*/true);
      stage.mark_copy(stream());
      done += piece;
    }
  }
  void download(const c10::Storage& from, uint64_t offset, uint64_t bytes, const Take& take) override {
    if (on_host(from)) {
      if (bytes != 0) take(static_cast<const char*>(from.data()) + offset, bytes);
      return;
    }
    // As many copies as there are stages are under way while the network takes the oldest.
    struct Piece {
      Stage* stage;
      uint64_t bytes;
    };
    std::array<Piece, kStages> under_way{};
    size_t first = 0;
    size_t count = 0;
    for (uint64_t started = 0; started < bytes || count != 0;) {
      while (started < bytes && count < kStages) {
        const uint64_t piece = std::min<uint64_t>(bytes - started, kStageBytes);
        Stage& stage = next_stage();
        stage.part(piece).copy_(window(from, offset + started, piece), /*non_blocking=*/true);
        stage.mark_copy(stream());
        under_way[(first + count++) % kStages] = {&stage, piece};
        started += piece;
      }
      const Piece& oldest = under_way[first];
      oldest.stage->wait();
      take(oldest.stage->data(), oldest.bytes);
      first = (first + 1) % kStages;
      --count;
    }
  }
  void synchronize() override { stream().synchronize(); }
  std::unique_ptr<Mark> mark() override { return std::make_unique<CudaMark>(stream()); }
  uint64_t allocated_bytes() const override { return static_cast<uint64_t>(stats().current); }
  uint64_t peak_bytes() const override { return static_cast<uint64_t>(stats().peak); }
  void reset_peak() override { allocator().resetPeakStats(device().index()); }

 private:
  static constexpr int64_t kStageBytes = 4 << 20;
  static constexpr size_t kStages = 4;

  // Before anything of the device is touched: without one, torch's own errors speak of drivers.
  static void check(c10::Device device) {
    at::globalContext().lazyInitDevice(device.type());
    const auto count = c10::impl::VirtualGuardImpl(device.type()).deviceCount();
    if (device.index() < 0 || device.index() >= count) {
      throw std::runtime_error("this node has no device " + device.str());
    }
  }
  // A result that CUDA's own kernels leave on the host, such as the seed of an attention's dropout.
  static bool on_host(const c10::Storage& storage) { return storage.device().is_cpu(); }

  c10::DeviceAllocator& allocator() const { return *c10::getDeviceAllocator(device().type()); }
  c10::CachingAllocator::Stat stats() const {
    constexpr auto kAll = static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE);
    return allocator().getDeviceStats(device().index()).allocated_bytes[kAll];
  }
  c10::Stream stream() const { return implementation_.getStream(device()); }
  Stage& next_stage() {
    Stage& stage = *stages_[turn_++ % kStages];
    stage.wait();
    return stage;
  }
  at::Tensor window(const c10::Storage& storage, uint64_t offset, uint64_t bytes) {
    return at::empty({0}, at::TensorOptions().dtype(at::kByte).device(storage.device()))
        .set_(storage, static_cast<int64_t>(offset), {static_cast<int64_t>(bytes)}, {1});
  }

  c10::impl::VirtualGuardImpl implementation_;
  c10::DeviceGuard guard_;
  std::array<std::unique_ptr<Stage>, kStages> stages_;
  size_t turn_ = 0;
};

}  // namespace

std::unique_ptr<Device> open_cuda_device(c10::Device device) { return std::make_unique<CudaDevice>(device); }

}  // namespace elara::server
