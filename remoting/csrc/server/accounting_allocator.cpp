#include "server/accounting_allocator.h"

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <vector>

namespace elara::server {

namespace {

constexpr size_t kAlignment = 64;  // what vectorised kernels expect; also the room for a block's size in front of it
constexpr size_t kCachedFrom = 64 << 10;

std::string in_units(uint64_t bytes) {
  char text[48];
  const double value = static_cast<double>(bytes);
  if (bytes >= (1ull << 30)) {
    std::snprintf(text, sizeof text, "%.2f GiB", value / (1ull << 30));
  } else if (bytes >= (1ull << 20)) {
    std::snprintf(text, sizeof text, "%.2f MiB", value / (1ull << 20));
  } else {
    std::snprintf(text, sizeof text, "%.2f KiB", value / (1ull << 10));
  }
  return text;
}

// Freed blocks by size class. Fresh pages from the kernel cost several times what a kernel that fills them does, and
// a training step asks for the same sizes over and over.
class BlockCache {
 public:
  // Eight classes from one power of two to the next, so that at most an eighth of a block is slack.
  static size_t rounded(size_t bytes) {
    const size_t step = step_of(bytes);
    return (bytes + step - 1) / step * step;
  }
  void* take(size_t size) {
    std::lock_guard<std::mutex> guard(lock_);
    auto& blocks = blocks_[index(size)];
    if (blocks.empty()) return nullptr;
    void* block = blocks.back();
    blocks.pop_back();
    held_ -= size;
    return block;
  }
  bool keep(void* block, size_t size) {
    std::lock_guard<std::mutex> guard(lock_);
    if (held_ + size > most_) return false;
    blocks_[index(size)].push_back(block);
    held_ += size;
    return true;
  }
  void drop_all() {
    std::lock_guard<std::mutex> guard(lock_);
    for (auto& blocks : blocks_) {
      for (void* block : blocks) std::free(block);
      blocks.clear();
    }
    held_ = 0;
  }
  void set_most(size_t bytes) { most_ = bytes; }

 private:
  // From one class to the next.
  static size_t step_of(size_t size) { return std::max<size_t>(std::bit_floor(size) / 8, 1); }
  static size_t index(size_t size) {
    const auto power = static_cast<size_t>(std::bit_width(size) - 1);
    return power * 8 + (size / step_of(size)) % 8;
  }
  std::mutex lock_;
  std::array<std::vector<void*>, size_t{64} * 8> blocks_;
  size_t held_ = 0;
  size_t most_ = 0;
};

struct Account {
  Ledger* ledger = nullptr;
  std::string device_name;
  BlockCache cache;
};

// Never destroyed: tensors may be freed after static destructors have run.
Account& account() {
  static Account* the = new Account;
  return *the;
}

// In front of each block lies its charged size, which need not be the size of the memory behind it.
struct BlockHead {
  size_t charged;
  size_t allocated;
};
static_assert(sizeof(BlockHead) <= kAlignment);

void free_block(void* data) {
  if (data == nullptr) return;
  auto* base = static_cast<char*>(data) - kAlignment;
  BlockHead head;
  std::memcpy(&head, base, sizeof head);
  account().ledger->release(head.charged);
  if (head.allocated < kCachedFrom || !account().cache.keep(base, head.allocated)) std::free(base);
}

void* allocate_block(size_t bytes) {
  Account& the = account();
  if (!the.ledger->reserve(bytes)) {
    throw c10::OutOfMemoryError({__func__, __FILE__, static_cast<uint32_t>(__LINE__)},
                                out_of_memory_sentence(*the.ledger, bytes, the.device_name));
  }
  size_t allocated = bytes + kAlignment;
  void* base = nullptr;
  if (allocated >= kCachedFrom) {
    allocated = BlockCache::rounded(allocated);
    base = the.cache.take(allocated);
  }
  if (base == nullptr && ::posix_memalign(&base, kAlignment, allocated) != 0) {
    the.cache.drop_all();
    if (::posix_memalign(&base, kAlignment, allocated) != 0) {
      the.ledger->release(bytes);
      throw c10::OutOfMemoryError({__func__, __FILE__, static_cast<uint32_t>(__LINE__)},
                                  "CUDA out of memory. Tried to allocate " + in_units(bytes) +
                                      ", and the node itself has no memory left for " + the.device_name + ".");
    }
  }
  const BlockHead head{bytes, allocated};
  std::memcpy(base, &head, sizeof head);
  return static_cast<char*>(base) + kAlignment;
}

class AccountingAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    if (bytes == 0) return {nullptr, nullptr, &free_block, c10::Device(c10::kCPU)};
    void* data = allocate_block(bytes);
    return {data, data, &free_block, c10::Device(c10::kCPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &free_block; }
  void copy_data(void* to, const void* from, size_t count) const override { default_copy_data(to, from, count); }
};

}  // namespace

std::string out_of_memory_sentence(const Ledger& ledger, uint64_t bytes, const std::string& device_name) {
  // "CUDA out of memory." is what libraries that retry with a smaller batch look for.
  return "CUDA out of memory. Tried to allocate " + in_units(bytes) + "." + memory_situation(ledger, device_name);
}

std::string memory_situation(const Ledger& ledger, const std::string& device_name) {
  const uint64_t cap = ledger.cap();
  const uint64_t used = ledger.used_by_lease();
  const uint64_t mine = ledger.used_by_session();
  const uint64_t others = used > mine ? used - mine : 0;
  std::string text = " This lease may use " + in_units(cap) + " of " + device_name + ", of which " +
                     in_units(cap > used ? cap - used : 0) + " is free: this process holds " + in_units(mine);
  text += others != 0 ? " and other processes of the lease hold " + in_units(others) + "." : ".";
  return text;
}

void charge_cpu_memory_to(Ledger& ledger, const std::string& device_name) {
  account().ledger = &ledger;
  account().device_name = device_name;
  // Freed blocks are not charged, so what is kept of them is bounded apart from the cap.
  account().cache.set_most(std::min<uint64_t>(ledger.cap() / 4, 512ull << 20));
  static AccountingAllocator allocator;
  c10::SetCPUAllocator(&allocator, /*priority=*/255);
}

}  // namespace elara::server
