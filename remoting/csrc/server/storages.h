// The tensors' memory of one session, by the ids that the client gave.
#pragma once

#include <c10/core/Storage.h>

#include <cstdint>
#include <string>
#include <unordered_map>

#include "server/device.h"
#include "server/ledger.h"

namespace elara::server {

class StorageTable {
 public:
  // `ledger` is charged for what the table holds; nullptr when the device's allocator charges every block by itself.
  StorageTable(Device& device, Ledger* ledger, std::string model)
      : device_(device), ledger_(ledger), model_(std::move(model)) {}
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
  // Gives back what is charged and nothing else: for a device that is lost, on which nothing can be freed.
  void forfeit() noexcept;
  // Charges what the device's allocator holds besides the storages: workspaces that libraries keep.
  void settle();
  // Checks that [offset, offset + bytes) lies in the storage; throws wire::ProtocolError.
  static void check_range(const c10::Storage& storage, uint64_t offset, uint64_t bytes);

 private:
  struct Entry {
    c10::Storage storage;  // empty: a poisoned id
    uint64_t charged = 0;
  };

  // A storage that the cap has room for at this moment.
  c10::Storage fresh(uint64_t bytes);
  // Takes what the storage needs off the ledger, before it replaces what `entry` holds.
  void put(Entry& entry, c10::Storage storage);
  void uncharge(Entry& entry);

  Device& device_;
  // Takes `bytes` off the ledger; throws WorkError past the cap.
  void charge(uint64_t bytes);

  Ledger* ledger_;
  std::string model_;
  uint64_t charged_ = 0;     // for storages
  uint64_t workspaces_ = 0;  // charged besides
  std::unordered_map<uint64_t, Entry> entries_;
};

}  // namespace elara::server
