#include <ATen/EmptyTensor.h>
#include <ATen/ExpandUtils.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/_local_scalar_dense_native.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_strided.h>
#include <c10/util/Exception.h>

#include <mutex>

#include "client/attach/devices.h"
#include "client/dispatch/execute.h"
#include "client/dispatch/foreign.h"
#include "client/dispatch/native.h"
#include "client/takeover/storage.h"
#include "client/transport/session.h"

namespace elara::client {

namespace {

using at::Tensor;

uint64_t span_bytes(const Tensor& tensor) {
  return at::detail::computeStorageNbytes(tensor.sizes(), tensor.strides(), tensor.element_size());
}

// Where a dense tensor's bytes begin in its storage on the server.
struct Bytes {
  Session& session;
  uint64_t storage;
  uint64_t offset;
};
Bytes bytes_of(const Tensor& tensor) {
  const Place place = place_of(tensor);
  return {*place.record->session, place.record->id,
          place.offset + static_cast<uint64_t>(tensor.storage_offset()) * tensor.element_size()};
}

void upload(const Tensor& device, const Tensor& host) {
  const Bytes to = bytes_of(device);
  to.session.write(to.storage, to.offset, span_bytes(host), host.const_data_ptr());
}

void download(const Tensor& host, const Tensor& device) {
  const Bytes from = bytes_of(device);
  from.session.read(from.storage, from.offset, span_bytes(device), host.mutable_data_ptr());
}

// The value a lazy conjugate or negation stands for, in memory.
Tensor resolved(const Tensor& tensor) {
  return tensor.is_conj() || tensor.is_neg() ? tensor.resolve_conj().resolve_neg() : tensor;
}

bool plain(const Tensor& tensor) { return !tensor.is_conj() && !tensor.is_neg(); }

Tensor dense(const Tensor& tensor) { return tensor.is_non_overlapping_and_dense() ? tensor : tensor.contiguous(); }

Tensor empty_like_on(const Tensor& pattern, c10::Device device) {
  return at::empty_strided(pattern.sizes(), pattern.strides(), pattern.options().device(device).pinned_memory(false));
}

void host_to_device(const Tensor& self, const Tensor& given, bool non_blocking) {
  const Tensor source = resolved(given);
  const bool same = source.scalar_type() == self.scalar_type() && source.sizes() == self.sizes();
  if (same && plain(self) && self.is_non_overlapping_and_dense()) {
    if (source.strides() == self.strides()) {
      upload(self, source);
    } else {
      Tensor arranged = at::empty_strided(self.sizes(), self.strides(), source.options().pinned_memory(false));
      arranged.copy_(source);
      upload(self, arranged);
    }
    return;
  }
  // Before a cast or a broadcast the source is the smaller of the two: it travels, the device does the rest.
  const Tensor host = dense(source);
  const Tensor staged = empty_like_on(host, self.device());
  upload(staged, host);
  copy_on_device(self, staged, non_blocking);
}

void device_to_host(const Tensor& self, const Tensor& given) {
  Tensor source = given;
  // A narrowing cast is done where it saves bytes; a widening one here.
  if (source.scalar_type() != self.scalar_type() && self.element_size() < source.element_size()) {
    source = source.to(self.scalar_type());
  }
  source = dense(resolved(source));
  const bool direct = source.scalar_type() == self.scalar_type() && self.sizes() == source.sizes() &&
                      self.strides() == source.strides() && plain(self);
  if (direct) {
    download(self, source);
    return;
  }
  Tensor staged = empty_like_on(source, c10::kCPU);
  download(staged, source);
  self.copy_(staged);
}

// Both halves of a transfer go out in one order for all devices: each waits for the other, and so the earliest of those
// under way can always go on.
std::mutex& transfer_order() {
  static auto* mutex = new std::mutex;
  return *mutex;
}

void put_half(wire::Writer& out, wire::MessageType type, uint64_t transfer, const Bytes& here, const Bytes& there,
              uint64_t bytes) {
  const size_t place = out.begin(type);
  out.put(transfer);
  out.put(static_cast<uint32_t>(there.session.ordinal()));
  out.put(here.storage);
  out.put(here.offset);
  out.put(bytes);
  out.end(place);
}

// From device server to device server: the bytes never come here.
void transfer(const Tensor& to_tensor, const Tensor& from_tensor) {
  const Bytes to = bytes_of(to_tensor);
  const Bytes from = bytes_of(from_tensor);
  const uint64_t bytes = span_bytes(from_tensor);
  // Whatever may wait, or be interrupted, comes first: one half without the other would hold the device up.
  to.session.make_room();
  from.session.make_room();
  static uint64_t next_transfer = 1;
  std::lock_guard lock(transfer_order());
  const uint64_t number = next_transfer++;
  from.session.post([&](wire::Writer& out) { put_half(out, wire::MessageType::kPush, number, from, to, bytes); });
  to.session.post([&](wire::Writer& out) { put_half(out, wire::MessageType::kPull, number, to, from, bytes); });
}

void device_to_device(const Tensor& self, const Tensor& given, bool non_blocking) {
  const Tensor source = dense(resolved(given));
  if (!bytes_of(source).session.reaches(bytes_of(self).session)) {
    // By way of this process, in the order of both devices' work.
    Tensor staged = empty_like_on(source, c10::kCPU);
    download(staged, source);
    host_to_device(self, staged, non_blocking);
    return;
  }
  const bool direct = source.scalar_type() == self.scalar_type() && source.sizes() == self.sizes() &&
                      source.strides() == self.strides() && plain(self);
  if (direct) {
    transfer(self, source);
    return;
  }
  const Tensor staged = empty_like_on(source, self.device());
  transfer(staged, source);
  copy_on_device(self, staged, non_blocking);
}

Tensor& copy(Tensor& self, const Tensor& source, bool non_blocking) {
  take_over_foreign_operators();
  if (self.is_same(source)) return self;
  TORCH_CHECK(at::is_expandable_to(source.sizes(), self.sizes()), "output with shape ", self.sizes(),
              " doesn't match the broadcast shape ", at::infer_size(self.sizes(), source.sizes()));
  if (self.numel() == 0) return self;
  if (source._is_zerotensor()) return self.zero_();
  if (self.is_cuda() && source.is_cuda()) {
    if (self.device() == source.device()) {
      copy_on_device(self, source, non_blocking);
    } else {
      device_to_device(self, source, non_blocking);
    }
  } else if (self.is_cuda()) {
    TORCH_CHECK(source.is_cpu(), "cannot copy a tensor of device ", source.device(), " to ", self.device());
    host_to_device(self, source, non_blocking);
  } else {
    TORCH_CHECK(self.is_cpu(), "cannot copy a tensor of device ", source.device(), " to ", self.device());
    device_to_host(self, source);
  }
  return self;
}

Tensor copy_from(const Tensor& self, const Tensor& destination, bool non_blocking) {
  Tensor to = destination;
  copy(to, self, non_blocking);
  return to;
}

Tensor copy_from_and_resize(const Tensor& self, const Tensor& destination) {
  Tensor to = destination;
  to.resize_(self.sizes());
  copy(to, self, false);
  return to;
}

at::Scalar read_scalar(const Tensor& self) {
  const Tensor host = at::empty({}, self.options().device(c10::kCPU));
  download(host, resolved(self));
  return at::native::_local_scalar_dense_cpu(host);
}

}  // namespace

void register_copies(torch::Library& library) {
  library.impl("copy_", TORCH_FN(copy));
  library.impl("_copy_from", TORCH_FN(copy_from));
  library.impl("_copy_from_and_resize", TORCH_FN(copy_from_and_resize));
  library.impl("_local_scalar_dense", TORCH_FN(read_scalar));
}

}  // namespace elara::client
