#include <ATen/EmptyTensor.h>
#include <ATen/core/Tensor.h>
#include <ATen/native/Resize.h>
#include <ATen/native/TensorFactories.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/is_set_to_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_as_complex_native.h>
#include <ATen/ops/view_as_real_native.h>
#include <ATen/ops/view_native.h>
#include <c10/util/Exception.h>

#include "client/attach/devices.h"
#include "client/dispatch/native.h"
#include "client/takeover/storage.h"

namespace elara::client {

namespace {

using at::Tensor;
using c10::SymIntArrayRef;
using OptionalType = std::optional<c10::ScalarType>;
using OptionalLayout = std::optional<c10::Layout>;
using OptionalDevice = std::optional<c10::Device>;

c10::Allocator* allocator_for(const OptionalDevice& device) {
  return device_allocator(checked_ordinal(device && device->has_index() ? device->index() : -1));
}

c10::ScalarType type_or_default(const OptionalType& type) {
  return type.value_or(c10::typeMetaToScalarType(c10::get_default_dtype()));
}

void require_plain(const OptionalLayout& layout, const std::optional<bool>& pinned) {
  TORCH_CHECK(!pinned.value_or(false), "Only dense CPU tensors can be pinned");
  TORCH_CHECK_NOT_IMPLEMENTED(!layout || *layout == c10::kStrided, "tensors of layout ", *layout,
                              " are not supported on an attached GPU; use a dense tensor");
}

Tensor empty(SymIntArrayRef size, OptionalType type, OptionalLayout layout, OptionalDevice device,
             std::optional<bool> pinned, std::optional<c10::MemoryFormat> format) {
  require_plain(layout, pinned);
  return Tensor(at::detail::empty_generic(C10_AS_INTARRAYREF_SLOW(size), allocator_for(device),
                                          c10::DispatchKeySet(c10::DispatchKey::CUDA), type_or_default(type), format));
}

Tensor empty_strided(SymIntArrayRef size, SymIntArrayRef stride, OptionalType type, OptionalLayout layout,
                     OptionalDevice device, std::optional<bool> pinned) {
  require_plain(layout, pinned);
  return Tensor(at::detail::empty_strided_generic(C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride),
                                                  allocator_for(device), c10::DispatchKeySet(c10::DispatchKey::CUDA),
                                                  type_or_default(type)));
}

// A tensor of zeros without memory, which autograd uses; it must not become a real one.
Tensor efficient_zero_tensor(SymIntArrayRef size, OptionalType type, OptionalLayout, OptionalDevice device,
                             std::optional<bool>) {
  const int ordinal = checked_ordinal(device && device->has_index() ? device->index() : -1);
  at::native::ZeroTensorAllocator allocator(c10::Device(c10::kCUDA, static_cast<c10::DeviceIndex>(ordinal)));
  const auto keys = c10::DispatchKeySet(c10::DispatchKey::CUDA) | c10::DispatchKeySet(c10::DispatchKey::ZeroTensor);
  return Tensor(
      at::detail::empty_generic(C10_AS_INTARRAYREF_SLOW(size), &allocator, keys, type_or_default(type), std::nullopt));
}

Tensor as_strided(const Tensor& self, SymIntArrayRef size, SymIntArrayRef stride, std::optional<c10::SymInt> offset) {
  return at::native::as_strided_tensorimpl(self, C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride),
                                           offset ? std::optional<int64_t>(offset->expect_int()) : std::nullopt);
}

Tensor view(const Tensor& self, SymIntArrayRef size) { return at::native::view(self, C10_AS_INTARRAYREF_SLOW(size)); }

Tensor reshape_alias(const Tensor& self, SymIntArrayRef size, SymIntArrayRef stride) {
  return at::native::_reshape_alias(self, C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride));
}

const Tensor& resize(const Tensor& self, SymIntArrayRef size, std::optional<c10::MemoryFormat> format) {
  auto* impl = self.unsafeGetTensorImpl();
  impl->generic_set_sizes_contiguous(size);
  if (format && *format != c10::MemoryFormat::Preserve) impl->empty_tensor_restride(*format);
  ensure_capacity(self);
  return self;
}

Tensor& set_storage_at(Tensor& self, at::Storage source, c10::SymInt offset, SymIntArrayRef size,
                       SymIntArrayRef stride) {
  TORCH_CHECK(source.device() == self.device(), "Attempted to set the storage of a tensor on device \"", self.device(),
              "\" to a storage on different device \"", source.device(),
              "\".  This is no longer allowed; the devices must match.");
  auto* impl = self.unsafeGetTensorImpl();
  impl->set_storage_keep_dtype(std::move(source));
  if (stride.size() == size.size()) {
    impl->set_sizes_and_strides(C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride), offset.expect_int());
  } else {
    impl->set_storage_offset(offset.expect_int());
    impl->set_sizes_contiguous(C10_AS_INTARRAYREF_SLOW(size));
  }
  ensure_capacity(self);
  return self;
}

Tensor& set_storage(Tensor& self, at::Storage source) {
  const auto elements = static_cast<int64_t>(source.nbytes() / self.dtype().itemsize());
  const c10::SymInt size(elements);
  return set_storage_at(self, std::move(source), 0, SymIntArrayRef(&size, 1), {});
}

Tensor& set_tensor(Tensor& self, const Tensor& source) {
  if (self.is_same(source)) return self;
  return set_storage_at(self, source.storage(), source.storage_offset(), source.sym_sizes(), source.sym_strides());
}

Tensor& set_empty(Tensor& self) {
  auto* allocator = device_allocator(self.device().index());
  const c10::Storage storage(c10::Storage::use_byte_size_t(), 0, allocator->allocate(0), allocator, true);
  const c10::SymInt none(0);
  return set_storage_at(self, storage, 0, SymIntArrayRef(&none, 1), {});
}

// Everything of a session runs in one order, so memory cannot be used again too early.
void record_stream(Tensor&, c10::Stream) {}

}  // namespace

void register_factories(torch::Library& library) {
  library.impl("empty.memory_format", TORCH_FN(empty));
  library.impl("empty_strided", TORCH_FN(empty_strided));
  library.impl("_efficientzerotensor", TORCH_FN(efficient_zero_tensor));
  library.impl("as_strided", TORCH_FN(as_strided));
  library.impl("view", TORCH_FN(view));
  library.impl("_reshape_alias", TORCH_FN(reshape_alias));
  library.impl("unfold", TORCH_FN(at::native::unfold));
  library.impl("view_as_real", TORCH_FN(at::native::view_as_real));
  library.impl("view_as_complex", TORCH_FN(at::native::view_as_complex));
  library.impl("resize_", TORCH_FN(resize));
  library.impl("set_.source_Storage", TORCH_FN(set_storage));
  library.impl("set_.source_Storage_storage_offset", TORCH_FN(set_storage_at));
  library.impl("set_.source_Tensor", TORCH_FN(set_tensor));
  library.impl("set_", TORCH_FN(set_empty));
  library.impl("is_set_to", TORCH_FN(at::native::is_set_to));
  library.impl("record_stream", TORCH_FN(record_stream));
}

}  // namespace elara::client
