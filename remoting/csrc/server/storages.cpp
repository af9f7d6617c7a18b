#include "server/storages.h"

#include <algorithm>
#include <utility>

#include "server/accounting_allocator.h"
#include "server/errors.h"
#include "wire/codec.h"

namespace elara::server {

namespace {

// Far above what a program keeps, and low enough that ids alone cannot exhaust the node.
constexpr size_t kMostStorages = 16u << 20;

}  // namespace

StorageTable::~StorageTable() {
  if (ledger_ == nullptr) return;
  for (const auto& [id, entry] : entries_) ledger_->release(entry.charged);
}

void StorageTable::put(Entry& entry, c10::Storage storage) {
  const uint64_t bytes = ledger_ != nullptr && storage ? storage.nbytes() : 0;
  if (bytes != 0 && !ledger_->reserve(bytes)) {
    throw WorkError(wire::ErrorKind::kOutOfMemory,
                    out_of_memory_sentence(*ledger_, bytes, "device " + device_.device().str()));
  }
  if (entry.charged != 0) ledger_->release(entry.charged);
  entry.charged = bytes;
  entry.storage = std::move(storage);
}

void StorageTable::bind(uint64_t id, c10::Storage storage) {
  if (entries_.size() >= kMostStorages) throw wire::ProtocolError("the session holds too many storages");
  const auto [place, fresh] = entries_.try_emplace(id);
  if (!fresh) throw wire::ProtocolError("storage " + std::to_string(id) + " is already in use");
  put(place->second, std::move(storage));
}

void StorageTable::poison(uint64_t id) {
  if (entries_.size() >= kMostStorages) throw wire::ProtocolError("the session holds too many storages");
  put(entries_[id], c10::Storage());
}

c10::Storage& StorageTable::get(uint64_t id) {
  const auto found = entries_.find(id);
  if (found == entries_.end()) throw wire::ProtocolError("there is no storage " + std::to_string(id));
  if (!found->second.storage) {
    throw WorkError(wire::ErrorKind::kRuntime,
                    "the tensor has no contents, because the operator or allocation that should have made it failed");
  }
  return found->second.storage;
}

void StorageTable::erase(uint64_t id) {
  const auto found = entries_.find(id);
  if (found == entries_.end()) return;
  if (found->second.charged != 0) ledger_->release(found->second.charged);
  entries_.erase(found);
}

void StorageTable::allocate(uint64_t id, uint64_t bytes) {
  if (entries_.contains(id)) throw wire::ProtocolError("storage " + std::to_string(id) + " is already in use");
  bind(id, device_.allocate(bytes));
}

void StorageTable::resize(uint64_t id, uint64_t bytes) {
  c10::Storage& storage = get(id);
  if (storage.nbytes() == bytes) return;
  c10::Storage fresh = device_.allocate(bytes);
  device_.copy(fresh, storage, std::min<uint64_t>(bytes, storage.nbytes()));
  put(entries_.find(id)->second, std::move(fresh));
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
