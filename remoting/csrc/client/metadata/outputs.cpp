#include "client/metadata/outputs.h"

#include <ATen/EmptyTensor.h>
#include <ATen/core/Tensor.h>
#include <c10/core/TensorImpl.h>

#include "client/takeover/storage.h"
#include "client/transport/session.h"

namespace elara::client {

namespace {

using wire::OutputKind;

uint8_t flags_of(const at::Tensor& tensor) {
  uint8_t flags = 0;
  if (tensor.unsafeGetTensorImpl()->is_wrapped_number()) flags |= wire::kWrappedNumber;
  if (tensor.is_conj()) flags |= wire::kConjugate;
  if (tensor.is_neg()) flags |= wire::kNegative;
  return flags;
}

void set_flags(c10::TensorImpl* impl, uint8_t flags) {
  if (flags == 0) return;
  if (flags & wire::kWrappedNumber) impl->set_wrapped_number(true);
  if (flags & wire::kConjugate) impl->_set_conj(true);
  if (flags & wire::kNegative) impl->_set_neg(true);
}

void encode_geometry(wire::Writer& out, const Output& output) {
  out.put(static_cast<uint8_t>(output.dtype));
  out.put(output.flags);
  out.put(static_cast<uint8_t>(output.sizes.size()));
  out.array(output.sizes.data(), output.sizes.size());
  out.array(output.strides.data(), output.strides.size());
}

at::Tensor build_new(const Output& output, Session& session, uint64_t id) {
  c10::Storage storage(adopt_storage_impl(session, id, output.bytes));
  at::Tensor tensor = at::detail::make_tensor<c10::TensorImpl>(
      std::move(storage), c10::DispatchKeySet(c10::DispatchKey::CUDA), c10::scalarTypeToTypeMeta(output.dtype));
  auto* impl = tensor.unsafeGetTensorImpl();
  // A TensorImpl begins as one dimension of no elements.
  if (output.sizes.size() != 1 || output.sizes[0] != 0) impl->set_sizes_and_strides(output.sizes, output.strides);
  set_flags(impl, output.flags);
  return tensor;
}

at::Tensor build_view(const Output& output, const at::Tensor& base) {
  at::Tensor view = at::detail::make_tensor<c10::TensorImpl>(c10::TensorImpl::VIEW, c10::Storage(base.storage()),
                                                             base.key_set(), c10::scalarTypeToTypeMeta(output.dtype));
  auto* impl = view.unsafeGetTensorImpl();
  impl->set_sizes_and_strides(output.sizes, output.strides, output.offset);
  set_flags(impl, output.flags);
  return view;
}

}  // namespace

Output output_like(const at::Tensor& tensor) {
  Output output;
  if (!tensor.defined()) return output;
  output.kind = OutputKind::kNew;
  output.dtype = tensor.scalar_type();
  output.flags = flags_of(tensor);
  output.sizes = c10::DimVector(tensor.sizes());
  output.strides = c10::DimVector(tensor.strides());
  output.bytes = at::detail::computeStorageNbytes(tensor.sizes(), tensor.strides(), tensor.element_size());
  return output;
}

void encode_outputs(wire::Writer& out, const std::vector<Output>& outputs) {
  out.put(static_cast<uint32_t>(outputs.size()));
  for (const Output& output : outputs) {
    out.put(output.kind);
    if (output.kind == OutputKind::kNew) {
      encode_geometry(out, output);
      out.put(output.bytes);
    } else if (output.kind == OutputKind::kAlias) {
      out.put(output.argument);
    } else if (output.kind == OutputKind::kView) {
      out.put(output.argument);
      encode_geometry(out, output);
      out.put(output.offset);
    } else if (output.kind == OutputKind::kList) {
      encode_outputs(out, output.list);
    }
  }
}

c10::IValue build_output(const Output& output, Session& session, uint64_t& storage,
                         at::ArrayRef<c10::IValue> arguments) {
  switch (output.kind) {
    case OutputKind::kNew:
      return build_new(output, session, storage++);
    case OutputKind::kAlias:
      return arguments[output.argument];
    case OutputKind::kView:
      return build_view(output, arguments[output.argument].toTensor());
    case OutputKind::kList: {
      c10::List<at::Tensor> list;
      list.reserve(output.list.size());
      for (const Output& entry : output.list) {
        list.push_back(build_output(entry, session, storage, arguments).toTensor());
      }
      return list;
    }
    case OutputKind::kUndefined:
      return at::Tensor();
    default:
      return output.value;
  }
}

}  // namespace elara::client
