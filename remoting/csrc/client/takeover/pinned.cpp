#include "client/takeover/pinned.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <new>

namespace elara::client {

namespace {

class PinnedAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    void* memory = nullptr;
    const size_t size = std::max<size_t>(bytes, 1);
    if (::posix_memalign(&memory, 4096, size) != 0) throw std::bad_alloc();
    {
      std::lock_guard lock(mutex_);
      blocks_[static_cast<const char*>(memory)] = size;
    }
    return {memory, memory, &release, c10::Device(c10::kCPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* destination, const void* source, std::size_t bytes) const override {
    std::memcpy(destination, source, bytes);
  }
  bool contains(const void* pointer) {
    const auto* address = static_cast<const char*>(pointer);
    std::lock_guard lock(mutex_);
    auto after = blocks_.upper_bound(address);
    if (after == blocks_.begin()) return false;
    --after;
    return address < after->first + after->second;
  }

 private:
  static void release(void* memory);

  std::mutex mutex_;
  std::map<const char*, size_t> blocks_;
};

PinnedAllocator& allocator() {
  static auto* instance = new PinnedAllocator;
  return *instance;
}

void PinnedAllocator::release(void* memory) {
  {
    auto& self = allocator();
    std::lock_guard lock(self.mutex_);
    self.blocks_.erase(static_cast<const char*>(memory));
  }
  std::free(memory);
}

}  // namespace

c10::Allocator* pinned_allocator() { return &allocator(); }
bool is_pinned(const void* pointer) { return allocator().contains(pointer); }

}  // namespace elara::client
