// Device memory as the client sees it: unique addresses inside reserved address space, each standing for a storage of a
// session's device server.
#pragma once

#include <ATen/core/TensorBase.h>
#include <c10/core/Allocator.h>
#include <c10/core/StorageImpl.h>

#include <cstdint>
#include <memory>

namespace elara::client {

class Session;

struct StorageRecord {
  char* address = nullptr;
  size_t capacity = 0;  // bytes of address space
  size_t bytes = 0;
  uint64_t id = 0;
  std::shared_ptr<Session> session;  // null while the record is unused
};

// Where a tensor's data is: the storage, and the tensor's distance from its beginning in bytes. Also for tensors that
// C++ code made over our addresses (from_blob), whose storage may begin inside one of ours. Raises when the tensor's
// attachment has ended.
struct Place {
  StorageRecord* record;
  uint64_t offset;  // of the tensor's storage within the record, bytes (not the tensor's own storage_offset)
};
Place place_of(const at::TensorBase& tensor);

// Wraps a storage that the server has or will have, as an operator's output.
c10::DataPtr adopt_storage(Session& session, uint64_t id, size_t bytes);
c10::intrusive_ptr<c10::StorageImpl> adopt_storage_impl(Session& session, uint64_t id, size_t bytes);

// Allocates on `ordinal`, or on the thread's current device for -1.
c10::Allocator* device_allocator(int ordinal);

// Changes a storage's size, as the server's. Contents up to the smaller size stay.
void resize_storage(c10::StorageImpl* storage, size_t bytes);
// The server has already made it `bytes` long.
void note_resized(c10::StorageImpl* storage, size_t bytes);
// Grows the tensor's storage when its sizes and strides need more.
void ensure_capacity(const at::TensorBase& tensor);

// The record whose addresses contain `pointer`, or null.
StorageRecord* find_record(const void* pointer);

}  // namespace elara::client
