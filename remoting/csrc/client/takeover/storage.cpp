#include "client/takeover/storage.h"

#include <ATen/EmptyTensor.h>
#include <c10/util/Exception.h>
#include <sys/mman.h>

#include <array>
#include <bit>
#include <map>
#include <mutex>
#include <vector>

#include "client/attach/devices.h"
#include "client/transport/session.h"

namespace elara::client {

namespace {

// Records with their addresses are used again by size class, as a caching allocator does: the address space stays
// bounded by the peak of live memory, and the ordered map changes only when a new record is made.
class RecordPool {
 public:
  StorageRecord* take(Session& session, uint64_t id, size_t bytes) {
    const size_t index = class_of(bytes);
    std::lock_guard lock(mutex_);
    StorageRecord* record = nullptr;
    if (free_[index].empty()) {
      record = make(index);
    } else {
      record = free_[index].back();
      free_[index].pop_back();
    }
    record->bytes = bytes;
    record->id = id;
    record->session = session.shared_from_this();
    return record;
  }

  void give_back(StorageRecord* record) noexcept {
    // Perhaps the last one to hold it; what that frees is freed without the lock.
    std::shared_ptr<Session> session;
    std::lock_guard lock(mutex_);
    session.swap(record->session);
    free_[class_of(record->capacity)].push_back(record);
  }

  StorageRecord* find(const void* pointer) {
    auto* address = static_cast<char*>(const_cast<void*>(pointer));
    std::lock_guard lock(mutex_);
    auto after = by_address_.upper_bound(address);
    if (after == by_address_.begin()) return nullptr;
    StorageRecord* record = std::prev(after)->second;
    return record->session != nullptr && address < record->address + record->capacity ? record : nullptr;
  }

 private:
  static constexpr size_t kGrain = 512;
  static constexpr size_t kClasses = size_t{4} * 64;

  // Four classes to each power of two, so that at most a quarter of the addresses is wasted.
  static size_t class_of(size_t bytes) {
    const size_t grains = (bytes + kGrain - 1) / kGrain;
    if (grains <= 4) return std::max<size_t>(grains, 1);
    const size_t power = std::bit_width(grains - 1) - 1;
    const size_t quarter = ((grains - 1) >> (power - 2)) & 3;
    return 4 * (power - 1) + quarter + 1;
  }
  static size_t bytes_of(size_t index) {
    if (index <= 4) return std::max<size_t>(index, 1) * kGrain;
    const size_t power = (index - 1) / 4 + 1;
    return ((4 + (index - 1) % 4 + 1) << (power - 2)) * kGrain;
  }

  StorageRecord* make(size_t index) {
    const size_t capacity = bytes_of(index);
    // One grain between neighbours: the end of one storage is not the beginning of another.
    reserve();
    TORCH_CHECK(capacity + kGrain <= left_, "CUDA error: the address space for device tensors is used up");
    auto* record = new StorageRecord;
    record->address = next_;
    record->capacity = capacity;
    next_ += capacity + kGrain;
    left_ -= capacity + kGrain;
    by_address_.emplace(record->address, record);
    return record;
  }

  void reserve() {
    if (next_ != nullptr) return;
    // PROT_NONE: a stray access to a device address faults at once instead of reading something else.
    for (size_t bytes = size_t{1} << 46; bytes >= size_t{1} << 36; bytes >>= 1) {
      void* reserved = ::mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      if (reserved == MAP_FAILED) continue;
      next_ = static_cast<char*>(reserved);
      left_ = bytes;
      return;
    }
    TORCH_CHECK(false, "CUDA error: this process may not reserve address space (ulimit -v)");
  }

  std::mutex mutex_;
  std::array<std::vector<StorageRecord*>, kClasses> free_;
  std::map<char*, StorageRecord*> by_address_;
  char* next_ = nullptr;
  size_t left_ = 0;  // bytes reserved behind `next_`
};

RecordPool& pool() {
  static auto* instance = new RecordPool;
  return *instance;
}

void count_live(Session& session, int64_t bytes) {
  auto& memory = session.memory;
  const int64_t live = memory.live.fetch_add(bytes, std::memory_order_relaxed) + bytes;
  if (live > memory.peak.load(std::memory_order_relaxed)) memory.peak.store(live, std::memory_order_relaxed);
  if (bytes > 0) memory.allocated_total.fetch_add(bytes, std::memory_order_relaxed);
}

void release_storage(void* context) {
  auto* record = static_cast<StorageRecord*>(context);
  Session& session = *record->session;
  session.free_storage(record->id);
  count_live(session, -static_cast<int64_t>(record->bytes));
  session.memory.storages.fetch_sub(1, std::memory_order_relaxed);
  pool().give_back(record);
}

c10::DataPtr pointer_to(StorageRecord* record) {
  const c10::Device device(c10::kCUDA, static_cast<c10::DeviceIndex>(record->session->ordinal()));
  return {record->address, record, &release_storage, device};
}

class DeviceAllocator final : public c10::Allocator {
 public:
  explicit DeviceAllocator(int ordinal) : ordinal_(ordinal) {}

  c10::DataPtr allocate(size_t bytes) override {
    const auto session = session_at(ordinal_ < 0 ? current_device() : ordinal_);
    session->reserve(bytes);
    const uint64_t id = session->take_storages(1);
    session->send([&](wire::Writer& out) {
      const size_t place = out.begin(wire::MessageType::kAlloc);
      out.put(id);
      out.put<uint64_t>(bytes);
      out.end(place);
    });
    // Other sessions share the lease's cap, so only the server knows whether a large block fits. A round trip is
    // nothing beside it, and the error is raised where the allocation stands.
    if (bytes >= kConfirmedBytes) session->synchronize();
    return adopt_storage(*session, id, bytes);
  }
  c10::DeleterFnPtr raw_deleter() const override { return nullptr; }
  void copy_data(void*, const void*, std::size_t) const override {
    TORCH_CHECK(false, "device memory is copied by tensors, not by address");
  }

 private:
  static constexpr size_t kConfirmedBytes = size_t{64} << 20;
  int ordinal_;
};

StorageRecord* own_record(c10::StorageImpl* storage) {
  auto& pointer = storage->_mutable_data_ptr_no_checks();
  return pointer.get_deleter() == &release_storage ? static_cast<StorageRecord*>(pointer.get_context()) : nullptr;
}

}  // namespace

c10::DataPtr adopt_storage(Session& session, uint64_t id, size_t bytes) {
  StorageRecord* record = pool().take(session, id, bytes);
  count_live(session, static_cast<int64_t>(bytes));
  session.memory.storages.fetch_add(1, std::memory_order_relaxed);
  session.memory.allocations.fetch_add(1, std::memory_order_relaxed);
  return pointer_to(record);
}

c10::intrusive_ptr<c10::StorageImpl> adopt_storage_impl(Session& session, uint64_t id, size_t bytes) {
  return c10::make_intrusive<c10::StorageImpl>(c10::StorageImpl::use_byte_size_t(), bytes,
                                               adopt_storage(session, id, bytes), device_allocator(session.ordinal()),
                                               /*resizable=*/true);
}

c10::Allocator* device_allocator(int ordinal) {
  static auto* allocators = [] {
    auto* made = new std::vector<DeviceAllocator>;
    for (int i = -1; i < kMostDevices; ++i) made->emplace_back(i);
    return made;
  }();
  return &(*allocators)[static_cast<size_t>(ordinal) + 1];
}

StorageRecord* find_record(const void* pointer) { return pool().find(pointer); }

Place place_of(const at::TensorBase& tensor) {
  auto* storage = tensor.unsafeGetTensorImpl()->unsafe_storage().unsafeGetStorageImpl();
  Place place{own_record(storage), 0};
  if (place.record == nullptr) [[unlikely]] {
    const void* address = storage->_mutable_data_ptr_no_checks().get();
    place.record = find_record(address);
    TORCH_CHECK(place.record != nullptr, "CUDA error: an illegal memory access was encountered (this address does not ",
                "belong to a tensor on an attached GPU)");
    place.offset = static_cast<uint64_t>(static_cast<const char*>(address) - place.record->address);
  }
  place.record->session->require();
  return place;
}

void resize_storage(c10::StorageImpl* storage, size_t bytes) {
  StorageRecord* record = own_record(storage);
  TORCH_CHECK(record != nullptr, "Trying to resize storage that is not resizable");
  Session& session = *record->session;
  if (bytes > record->bytes) session.reserve(bytes - record->bytes);
  session.send([&](wire::Writer& out) {
    const size_t place = out.begin(wire::MessageType::kResize);
    out.put(record->id);
    out.put<uint64_t>(bytes);
    out.end(place);
  });
  note_resized(storage, bytes);
}

void note_resized(c10::StorageImpl* storage, size_t bytes) {
  StorageRecord* record = own_record(storage);
  TORCH_CHECK(record != nullptr, "Trying to resize storage that is not resizable");
  Session& session = *record->session;
  count_live(session, static_cast<int64_t>(bytes) - static_cast<int64_t>(record->bytes));
  if (bytes <= record->capacity) {
    record->bytes = bytes;
  } else {
    StorageRecord* larger = pool().take(session, record->id, bytes);
    // Only the address changes: the storage on the server is the same one, so nothing is freed there.
    storage->_mutable_data_ptr_no_checks().release_context();
    storage->set_data_ptr_noswap(pointer_to(larger));
    pool().give_back(record);
  }
  storage->set_nbytes(bytes);
}

void ensure_capacity(const at::TensorBase& tensor) {
  if (tensor.numel() == 0) return;
  auto* impl = tensor.unsafeGetTensorImpl();
  const size_t needed = at::detail::computeStorageNbytes(tensor.sizes(), tensor.strides(), tensor.itemsize(),
                                                         static_cast<size_t>(impl->storage_offset()));
  auto* storage = impl->unsafe_storage().unsafeGetStorageImpl();
  if (needed > storage->nbytes()) resize_storage(storage, needed);
}

}  // namespace elara::client
