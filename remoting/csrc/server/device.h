// The device that a session computes on: the node's CPU (emulated) or a CUDA device.
#pragma once

#include <c10/core/Device.h>
#include <c10/core/Storage.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

namespace elara::server {

// A point in the order of the work, and the time at which the device came to it.
class Mark {
 public:
  virtual ~Mark() = default;
  virtual bool reached() const = 0;
  // Both must have been reached.
  virtual double milliseconds_since(const Mark& earlier) const = 0;
};

class Device {
 public:
  // Puts the next `bytes` bytes of some contents where it is told.
  using Fill = std::function<void(char* to, uint64_t bytes)>;
  // Is given contents piece by piece, in order.
  using Take = std::function<void(const char* from, uint64_t bytes)>;

  virtual ~Device() = default;
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  c10::Device device() const { return device_; }
  // A fresh storage with undefined contents; throws c10::OutOfMemoryError.
  virtual c10::Storage allocate(uint64_t bytes) = 0;
  // Copies the first `bytes` bytes, in the order of the operators.
  virtual void copy(c10::Storage& to, const c10::Storage& from, uint64_t bytes) = 0;
  // Contents into and out of a storage, in the order of the operators. An upload returns when the last piece has been
  // filled in, not when it has arrived; a download when the last piece has been taken.
  virtual void upload(const c10::Storage& to, uint64_t offset, uint64_t bytes, const Fill& fill) = 0;
  virtual void download(const c10::Storage& from, uint64_t offset, uint64_t bytes, const Take& take) = 0;
  // Waits until everything submitted has been executed.
  virtual void synchronize() = 0;
  virtual std::unique_ptr<Mark> mark() = 0;
  // Bytes that torch's allocator holds for tensors and temporaries at this moment; 0 where every block is charged to
  // the ledger by itself.
  virtual uint64_t allocated_bytes() const { return 0; }
  // The most of it since the last reset.
  virtual uint64_t peak_bytes() const { return 0; }
  virtual void reset_peak() {}

 protected:
  explicit Device(c10::Device device) : device_(device) {}

 private:
  c10::Device device_;
};

// `name` is torch's: "cpu" or "cuda:N". Throws std::runtime_error on another, or when there is no such device.
std::unique_ptr<Device> open_device(const std::string& name);

std::unique_ptr<Device> open_cpu_device();
std::unique_ptr<Device> open_cuda_device(c10::Device device);

// A storage of `bytes` bytes from `allocator`.
c10::Storage new_storage(uint64_t bytes, c10::Allocator* allocator);

}  // namespace elara::server
