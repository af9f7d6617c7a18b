#include "server/storages.h"

#include <algorithm>
#include <utility>

#include "server/accounting_allocator.h"
#include "server/errors.h"
#include "wire/codec.h"

namespace elara::server {

namespace {

// Far above what a program keeps, and low enough that ids alone cannot exhaust the node.
constexpr size_t kMostStorages = 4u << 20;

}  // namespace

StorageTable::~StorageTable() { forfeit(); }

void StorageTable::forfeit() noexcept {
  if (ledger_ != nullptr) ledger_->release(charged_ + workspaces_);
  charged_ = workspaces_ = 0;
}

void StorageTable::charge(uint64_t bytes) {
  if (!ledger_->reserve(bytes)) {
    throw WorkError(wire::ErrorKind::kOutOfMemory, out_of_memory_sentence(*ledger_, bytes, model_));
  }
  charged_ += bytes;
}

void StorageTable::settle() {
  if (ledger_ == nullptr) return;
  const uint64_t allocated = device_.allocated_bytes();
  const uint64_t workspaces = allocated > charged_ ? allocated - charged_ : 0;
  // They are there already, so past the cap there is nothing to refuse; the next tensor will be.
  if (workspaces > workspaces_ && !ledger_->reserve(workspaces - workspaces_)) return;
  if (workspaces < workspaces_) ledger_->release(workspaces_ - workspaces);
  workspaces_ = workspaces;
}

void StorageTable::uncharge(Entry& entry) {
  // Where there is no ledger nothing was charged.
  if (ledger_ != nullptr && entry.charged != 0) ledger_->release(entry.charged);
  charged_ -= entry.charged;
  entry.charged = 0;
}

void StorageTable::put(Entry& entry, c10::Storage storage) {
  const uint64_t bytes = ledger_ != nullptr && storage ? storage.nbytes() : 0;
  if (bytes != 0) charge(bytes);
  uncharge(entry);
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
  uncharge(found->second);
  entries_.erase(found);
}

c10::Storage StorageTable::fresh(uint64_t bytes) {
  // The lease's cap is asked first: its sentence says more than that of the device's allocator.
  if (ledger_ != nullptr && bytes > ledger_->cap() - std::min(ledger_->cap(), ledger_->used_by_lease())) {
    throw WorkError(wire::ErrorKind::kOutOfMemory, out_of_memory_sentence(*ledger_, bytes, model_));
  }
  return device_.allocate(bytes);
}

void StorageTable::allocate(uint64_t id, uint64_t bytes) {
  if (entries_.contains(id)) throw wire::ProtocolError("storage " + std::to_string(id) + " is already in use");
  bind(id, fresh(bytes));
}

void StorageTable::resize(uint64_t id, uint64_t bytes) {
  c10::Storage& storage = get(id);
  if (storage.nbytes() == bytes) return;
  c10::Storage larger = fresh(bytes);
  device_.copy(larger, storage, std::min<uint64_t>(bytes, storage.nbytes()));
  put(entries_.find(id)->second, std::move(larger));
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
