// The tensors' memory of one session, by the ids that the client gave.
#pragma once

#include <c10/core/Storage.h>

#include <cstdint>
#include <unordered_map>

#include "server/device.h"
#include "server/ledger.h"

namespace elara::server {

class StorageTable {
 public:
  // `ledger` is charged for what the table holds; nullptr when the device's allocator charges every block by itself.
  StorageTable(Device& device, Ledger* ledger) : device_(device), ledger_(ledger) {}
  ~StorageTable();
  StorageTable(const StorageTable&) = delete;
  StorageTable& operator=(const StorageTable&) = delete;

  // Throws wire::ProtocolError when the id is in use, c10::OutOfMemoryError past the cap.
  void bind(uint64_t id, c10::Storage storage);
  // Marks an id whose storage should have come from something that failed; using it raises WorkError. Replaces what
  // may be bound.
  void poison(uint64_t id);
  // Throws wire::ProtocolError on an id that was never bound.
  c10::Storage& get(uint64_t id);
  void erase(uint64_t id);
  size_t size() const { return entries_.size(); }

  void allocate(uint64_t id, uint64_t bytes);
  // Keeps the contents up to the smaller size.
  void resize(uint64_t id, uint64_t bytes);
  // Checks that [offset, offset + bytes) lies in the storage; throws wire::ProtocolError.
  static void check_range(const c10::Storage& storage, uint64_t offset, uint64_t bytes);

 private:
  struct Entry {
    c10::Storage storage;  // empty: a poisoned id
    uint64_t charged = 0;
  };

  // Takes what the storage needs off the ledger, before it replaces what `entry` holds.
  void put(Entry& entry, c10::Storage storage);

  Device& device_;
  Ledger* ledger_;
  std::unordered_map<uint64_t, Entry> entries_;
};

}  // namespace elara::server
