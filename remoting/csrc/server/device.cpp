#include "server/device.h"

#include <ATen/ATen.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <cstring>
#include <limits>
#include <stdexcept>

namespace elara::server {

namespace {

c10::Storage new_storage(uint64_t bytes, c10::Allocator* allocator) {
  // Sizes are signed inside torch.
  if (bytes > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) bytes = std::numeric_limits<int64_t>::max();
  return c10::Storage(c10::make_intrusive<c10::StorageImpl>(c10::StorageImpl::use_byte_size_t(),
                                                            static_cast<int64_t>(bytes), allocator,
                                                            /*resizable=*/true));
}

class CpuDevice final : public Device {
 public:
  CpuDevice() : Device(c10::Device(c10::kCPU)) {}

  c10::Storage allocate(uint64_t bytes) override { return new_storage(bytes, c10::GetCPUAllocator()); }
  void copy(c10::Storage& to, const c10::Storage& from, uint64_t bytes) override {
    if (bytes != 0) std::memcpy(to.mutable_data(), from.data(), bytes);
  }
  char* host_pointer(const c10::Storage& storage) override { return static_cast<char*>(storage.mutable_data()); }
  void upload(const c10::Storage& to, uint64_t offset, const char* from, uint64_t bytes) override {
    if (bytes != 0) std::memcpy(host_pointer(to) + offset, from, bytes);
  }
  void download(char* to, const c10::Storage& from, uint64_t offset, uint64_t bytes) override {
    if (bytes != 0) std::memcpy(to, host_pointer(from) + offset, bytes);
  }
  void synchronize() override {}
};

// Goes through torch's own tensors and guards, so that it needs no CUDA headers to build. Not yet run on a GPU.
class CudaDevice final : public Device {
 public:
  explicit CudaDevice(c10::Device device) : Device(device), guard_(device), implementation_(device.type()) {
    at::globalContext().lazyInitDevice(device.type());
    if (device.index() < 0 || device.index() >= implementation_.deviceCount()) {
      throw std::runtime_error("this node has no device " + device.str());
    }
    staging_ = at::empty({kStagingBytes}, at::TensorOptions().dtype(at::kByte).pinned_memory(true));
  }

  c10::Storage allocate(uint64_t bytes) override { return new_storage(bytes, c10::GetAllocator(device().type())); }
  void copy(c10::Storage& to, const c10::Storage& from, uint64_t bytes) override {
    if (bytes != 0) window(to, 0, bytes).copy_(window(from, 0, bytes), /*non_blocking=*/true);
  }
  char* host_pointer(const c10::Storage&) override { return nullptr; }
  void upload(const c10::Storage& to, uint64_t offset, const char* from, uint64_t bytes) override {
    // One staging buffer: a copy must be through before the next fills it.
    for (uint64_t done = 0; done < bytes;) {
      const uint64_t piece = std::min<uint64_t>(bytes - done, kStagingBytes);
      synchronize();
      std::memcpy(staging_.mutable_data_ptr(), from + done, piece);
      window(to, offset + done, piece).copy_(staging_.narrow(0, 0, static_cast<int64_t>(piece)), true);
      done += piece;
    }
  }
  void download(char* to, const c10::Storage& from, uint64_t offset, uint64_t bytes) override {
    for (uint64_t done = 0; done < bytes;) {
      const uint64_t piece = std::min<uint64_t>(bytes - done, kStagingBytes);
      staging_.narrow(0, 0, static_cast<int64_t>(piece)).copy_(window(from, offset + done, piece), true);
      synchronize();
      std::memcpy(to + done, staging_.const_data_ptr(), piece);
      done += piece;
    }
  }
  void synchronize() override { implementation_.getStream(device()).synchronize(); }

 private:
  static constexpr int64_t kStagingBytes = 8 << 20;

  at::Tensor window(const c10::Storage& storage, uint64_t offset, uint64_t bytes) {
    return at::empty({0}, at::TensorOptions().dtype(at::kByte).device(device()))
        .set_(storage, static_cast<int64_t>(offset), {static_cast<int64_t>(bytes)}, {1});
  }

  c10::DeviceGuard guard_;
  c10::impl::VirtualGuardImpl implementation_;
  at::Tensor staging_;
};

}  // namespace

std::unique_ptr<Device> open_device(const std::string& name) {
  const c10::Device device(name);
  if (device.is_cpu()) return std::make_unique<CpuDevice>();
  if (device.is_cuda()) return std::make_unique<CudaDevice>(device);
  throw std::runtime_error("a device server runs on \"cpu\" or \"cuda:N\", not on \"" + name + "\"");
}

}  // namespace elara::server
