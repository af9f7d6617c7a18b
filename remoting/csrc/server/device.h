// The device that a session computes on: the node's CPU (emulated) or a CUDA device.
#pragma once

#include <c10/core/Device.h>
#include <c10/core/Storage.h>

#include <cstdint>
#include <memory>
#include <string>

namespace elara::server {

class Device {
 public:
  virtual ~Device() = default;
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  c10::Device device() const { return device_; }
  // A fresh storage with undefined contents; throws c10::OutOfMemoryError.
  virtual c10::Storage allocate(uint64_t bytes) = 0;
  // Copies the first `bytes` bytes, in the order of the operators.
  virtual void copy(c10::Storage& to, const c10::Storage& from, uint64_t bytes) = 0;
  // Where the host reaches the contents, or nullptr when it cannot and upload/download must be used.
  virtual char* host_pointer(const c10::Storage& storage) = 0;
  virtual void upload(const c10::Storage& to, uint64_t offset, const char* from, uint64_t bytes) = 0;
  virtual void download(char* to, const c10::Storage& from, uint64_t offset, uint64_t bytes) = 0;
  // Waits until everything submitted has been executed.
  virtual void synchronize() = 0;

 protected:
  explicit Device(c10::Device device) : device_(device) {}

 private:
  c10::Device device_;
};

// `name` is torch's: "cpu" or "cuda:N". Throws std::runtime_error on another, or when there is no such device.
std::unique_ptr<Device> open_device(const std::string& name);

}  // namespace elara::server
