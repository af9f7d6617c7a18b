#include "server/storages.h"

#include <algorithm>
#include <utility>

#include "server/errors.h"
#include "wire/codec.h"

namespace elara::server {

namespace {

// Far above what a program keeps, and low enough that ids alone cannot exhaust the node.
constexpr size_t kMostStorages = 16u << 20;

}  // namespace

void StorageTable::bind(uint64_t id, c10::Storage storage) {
  if (entries_.size() >= kMostStorages) throw wire::ProtocolError("the session holds too many storages");
  if (!entries_.try_emplace(id, std::move(storage)).second) {
    throw wire::ProtocolError("storage " + std::to_string(id) + " is already in use");
  }
}

void StorageTable::poison(uint64_t id) {
  if (entries_.size() >= kMostStorages) throw wire::ProtocolError("the session holds too many storages");
  entries_[id] = c10::Storage();
}

c10::Storage& StorageTable::get(uint64_t id) {
  const auto found = entries_.find(id);
  if (found == entries_.end()) throw wire::ProtocolError("there is no storage " + std::to_string(id));
  if (!found->second) {
    throw WorkError(wire::ErrorKind::kRuntime,
                    "the tensor has no contents, because the operator or allocation that should have made it failed");
  }
  return found->second;
}

void StorageTable::allocate(uint64_t id, uint64_t bytes) { bind(id, device_.allocate(bytes)); }

void StorageTable::resize(uint64_t id, uint64_t bytes) {
  c10::Storage& storage = get(id);
  if (storage.nbytes() == bytes) return;
  c10::Storage fresh = device_.allocate(bytes);
  device_.copy(fresh, storage, std::min<uint64_t>(bytes, storage.nbytes()));
  storage = std::move(fresh);
}

void StorageTable::check_range(const c10::Storage& storage, uint64_t offset, uint64_t bytes) {
  const uint64_t size = storage.nbytes();
  if (offset > size || bytes > size - offset) {
    throw wire::ProtocolError("bytes " + std::to_string(offset) + " to " + std::to_string(offset) + "+" +
                              std::to_string(bytes) + " are outside of a storage of " + std::to_string(size) +
                              " bytes");
  }
}

}  // namespace elara::server
