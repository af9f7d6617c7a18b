// The tensors' memory of one session, by the ids that the client gave.
#pragma once

#include <c10/core/Storage.h>

#include <cstdint>
#include <unordered_map>

#include "server/device.h"

namespace elara::server {

class StorageTable {
 public:
  explicit StorageTable(Device& device) : device_(device) {}

  // Throws wire::ProtocolError when the id is in use.
  void bind(uint64_t id, c10::Storage storage);
  // Marks an id whose storage should have come from something that failed; using it raises WorkError. Replaces what
  // may be bound.
  void poison(uint64_t id);
  // Throws wire::ProtocolError on an id that was never bound.
  c10::Storage& get(uint64_t id);
  void erase(uint64_t id) { entries_.erase(id); }
  void clear() { entries_.clear(); }
  size_t size() const { return entries_.size(); }

  void allocate(uint64_t id, uint64_t bytes);
  // Keeps the contents up to the smaller size.
  void resize(uint64_t id, uint64_t bytes);
  // Checks that [offset, offset + bytes) lies in the storage; throws wire::ProtocolError.
  static void check_range(const c10::Storage& storage, uint64_t offset, uint64_t bytes);

 private:
  Device& device_;
  std::unordered_map<uint64_t, c10::Storage> entries_;  // an empty Storage is a poisoned id
};

}  // namespace elara::server
