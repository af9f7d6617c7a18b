#include "server/device.h"

#include <limits>
#include <stdexcept>

namespace elara::server {

c10::Storage new_storage(uint64_t bytes, c10::Allocator* allocator) {
  // Sizes are signed inside torch.
  if (bytes > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) bytes = std::numeric_limits<int64_t>::max();
  return c10::Storage(c10::make_intrusive<c10::StorageImpl>(c10::StorageImpl::use_byte_size_t(),
                                                            static_cast<int64_t>(bytes), allocator,
                                                            /*resizable=*/true));
}

std::unique_ptr<Device> open_device(const std::string& name) {
  const c10::Device device(name);
  if (device.is_cpu()) return open_cpu_device();
  if (device.is_cuda()) return open_cuda_device(device);
  throw std::runtime_error("a device server runs on \"cpu\" or \"cuda:N\", not on \"" + name + "\"");
}

}  // namespace elara::server
