// An emulated device: the node's CPU. Everything has been executed by the time the call returns.
#include <c10/core/CPUAllocator.h>

#include <chrono>
#include <cstring>

#include "server/device.h"

namespace elara::server {

namespace {

class CpuMark final : public Mark {
 public:
  bool reached() const override { return true; }
  double milliseconds_since(const Mark& earlier) const override {
    const auto passed = time_ - static_cast<const CpuMark&>(earlier).time_;
    return std::chrono::duration<double, std::milli>(passed).count();
  }

 private:
  std::chrono::steady_clock::time_point time_ = std::chrono::steady_clock::now();
};

class CpuDevice final : public Device {
 public:
  CpuDevice() : Device(c10::Device(c10::kCPU)) {}

  c10::Storage allocate(uint64_t bytes) override { return new_storage(bytes, c10::GetCPUAllocator()); }
  void copy(c10::Storage& to, const c10::Storage& from, uint64_t bytes) override {
    if (bytes != 0) std::memcpy(to.mutable_data(), from.data(), bytes);
  }
  void upload(const c10::Storage& to, uint64_t offset, uint64_t bytes, const Fill& fill) override {
    if (bytes != 0) fill(static_cast<char*>(to.mutable_data()) + offset, bytes);
  }
  void download(const c10::Storage& from, uint64_t offset, uint64_t bytes, const Take& take) override {
    if (bytes != 0) take(static_cast<const char*>(from.data()) + offset, bytes);
  }
  void synchronize() override {}
  std::unique_ptr<Mark> mark() override { return std::make_unique<CpuMark>(); }
};

}  // namespace

std::unique_ptr<Device> open_cpu_device() { return std::make_unique<CpuDevice>(); }

}  // namespace elara::server
