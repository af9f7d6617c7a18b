#include "client/metadata/infer.h"

#include <ATen/EmptyTensor.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/stack.h>
#include <c10/util/Exception.h>

#include <string>
#include <utility>

#include "client/takeover/storage.h"

namespace elara::client {

namespace {

at::Tensor to_meta(const at::Tensor& tensor) {
  // A CPU scalar stays what it is: shape functions take it, and its type decides the result's.
  if (!tensor.defined() || tensor.is_cpu()) return tensor;
  at::Tensor meta(at::detail::empty_strided_meta(tensor.sizes(), tensor.strides(), tensor.scalar_type()));
  auto* impl = meta.unsafeGetTensorImpl();
  if (const int64_t offset = tensor.storage_offset()) {
    impl->unsafe_storage().set_nbytes(at::detail::computeStorageNbytes(
        tensor.sizes(), tensor.strides(), tensor.element_size(), static_cast<size_t>(offset)));
    impl->set_storage_offset(offset);
  }
  if (tensor.is_conj()) impl->_set_conj(true);
  if (tensor.is_neg()) impl->_set_neg(true);
  if (tensor.unsafeGetTensorImpl()->is_wrapped_number()) impl->set_wrapped_number(true);
  return meta;
}

c10::IValue to_meta(const c10::IValue& value) {
  if (value.isTensor()) return to_meta(value.toTensor());
  if (value.isTensorList()) {
    c10::List<at::Tensor> list;
    for (const auto& item : value.toListRef()) list.push_back(to_meta(item.toTensor()));
    return list;
  }
  if (value.isOptionalTensorList()) {
    c10::List<std::optional<at::Tensor>> list;
    for (const auto& element : value.toOptionalTensorList()) {  // a stand-in for the element
      const std::optional<at::Tensor> item = element;
      list.push_back(item ? std::optional<at::Tensor>(to_meta(*item)) : item);
    }
    return list;
  }
  if (value.isDevice()) return c10::Device(c10::kMeta);
  // Shape functions draw no numbers, and ours is of a device they do not expect.
  if (value.isGenerator()) return {};
  return value;
}

// The first argument that is the same tensor as the `i`-th: `x.add_(y)` may be `add.out(x, y, out=x)`, and an output
// that is an input, too, is not resized.
size_t first_of_same(at::ArrayRef<c10::IValue> arguments, size_t i) {
  if (!arguments[i].isTensor() || !arguments[i].toTensor().defined()) return i;
  for (size_t earlier = 0; earlier < i; ++earlier) {
    if (arguments[earlier].isTensor() && arguments[earlier].toTensor().is_same(arguments[i].toTensor())) return earlier;
  }
  return i;
}

// What a shape function did to the stand-ins of written arguments is done to the arguments.
bool resize_written(const Operator& op, at::ArrayRef<c10::IValue> arguments,
                    const std::vector<c10::IValue>& stand_ins) {
  bool resized = false;
  for (size_t i = 0; i < op.arguments; ++i) {
    if (!op.written_argument[i] || !arguments[i].isTensor()) continue;
    const at::Tensor& tensor = arguments[i].toTensor();
    const at::Tensor& stand_in = stand_ins[i].toTensor();
    if (!tensor.defined() || !tensor.is_cuda() || stand_in.sizes() == tensor.sizes()) continue;
    tensor.unsafeGetTensorImpl()->set_sizes_and_strides(stand_in.sizes(), stand_in.strides());
    ensure_capacity(tensor);
    resized = true;
  }
  return resized;
}

Output output_of(const ReturnFact& fact, const c10::IValue& result) {
  Output output;
  if (fact.written >= 0) {
    output.kind = wire::OutputKind::kAlias;
    output.argument = static_cast<uint32_t>(fact.written);
  } else if (fact.kind == ReturnFact::Kind::kTensorList) {
    output.kind = wire::OutputKind::kList;
    for (const auto& item : result.toListRef()) output.list.push_back(output_like(item.toTensor()));
  } else {
    output = output_like(result.toTensor());
    if (fact.viewed >= 0 && output.kind == wire::OutputKind::kNew) {
      output.kind = wire::OutputKind::kView;
      output.argument = static_cast<uint32_t>(fact.viewed);
      output.offset = result.toTensor().storage_offset();
      output.bytes = 0;
    }
  }
  return output;
}

// Whether an output of this kind can stand where the schema has `fact`.
bool can_return(const ReturnFact& fact, const Output& output, at::ArrayRef<c10::IValue> arguments) {
  switch (output.kind) {
    case wire::OutputKind::kAlias:
    case wire::OutputKind::kView:
      return fact.kind == ReturnFact::Kind::kTensor && output.argument < arguments.size() &&
             arguments[output.argument].isTensor() && arguments[output.argument].toTensor().defined() &&
             arguments[output.argument].toTensor().is_cuda();
    case wire::OutputKind::kNew:
    case wire::OutputKind::kUndefined:
      return fact.kind == ReturnFact::Kind::kTensor;
    case wire::OutputKind::kList:
      return fact.kind == ReturnFact::Kind::kTensorList;
    default:
      return fact.kind == ReturnFact::Kind::kOther;
  }
}

}  // namespace

void check_taught(const Operator& op, const std::vector<Output>& outputs, at::ArrayRef<c10::IValue> arguments,
                  uint64_t most_new) {
  if (outputs.size() != op.returns.size()) {
    throw wire::ProtocolError(op.name + " returns " + std::to_string(op.returns.size()) + " results, not " +
                              std::to_string(outputs.size()));
  }
  if (count_new(outputs) > most_new) throw wire::ProtocolError(op.name + " returned too many tensors");
  for (size_t i = 0; i < outputs.size(); ++i) {
    bool good = can_return(op.returns[i], outputs[i], arguments);
    for (const Output& item : outputs[i].list) {
      good = good && item.list.empty() && can_return(ReturnFact{}, item, arguments);
    }
    if (!good) throw wire::ProtocolError("result " + std::to_string(i) + " of " + op.name + " is of another kind");
  }
}

Inferred infer_outputs(const Operator& op, at::ArrayRef<c10::IValue> arguments) {
  Inferred inferred;
  if (!op.meta) {
    // Nothing to infer where an operator only returns what it writes; the server checks the rest.
    inferred.known = op.in_place_only || op.returns.empty();
    for (const auto& fact : op.returns) {
      if (inferred.known) inferred.outputs.push_back(output_of(fact, {}));
    }
    return inferred;
  }
  std::vector<c10::IValue> stand_ins;
  stand_ins.reserve(arguments.size());
  for (size_t i = 0; i < arguments.size(); ++i) {
    const size_t same = op.writes ? first_of_same(arguments, i) : i;
    stand_ins.push_back(same < i ? stand_ins[same] : to_meta(arguments[i]));
  }
  torch::jit::Stack stack(stand_ins.begin(), stand_ins.end());
  {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
    try {
      op.meta->callBoxed(op.handle, c10::DispatchKeySet(c10::DispatchKey::Meta), &stack);
    } catch (const c10::NotImplementedError&) {
      return inferred;
    } catch (const c10::IndexError&) {
      // index_add's looks at the first row of what is added, though there may be none: the kernel has the last word.
      return inferred;
    }
  }
  if (op.writes && resize_written(op, arguments, stand_ins)) {
    inferred.resized = true;
    return inferred;
  }
  inferred.known = true;
  for (size_t i = 0; i < op.returns.size(); ++i) inferred.outputs.push_back(output_of(op.returns[i], stack[i]));
  return inferred;
}

Taught take_taught(const Operator& op, std::vector<Output> outputs, at::ArrayRef<c10::IValue> arguments) {
  Taught taught;
  for (size_t i = 0; i < outputs.size() && i < op.returns.size(); ++i) {
    Output& output = outputs[i];
    const int written = op.returns[i].written;
    if (written >= 0) {
      if (output.kind == wire::OutputKind::kView) {
        const at::Tensor& tensor = arguments[static_cast<size_t>(written)].toTensor();
        auto* impl = tensor.unsafeGetTensorImpl();
        impl->set_sizes_and_strides(output.sizes, output.strides, output.offset);
        impl->_set_conj((output.flags & wire::kConjugate) != 0);
        impl->_set_neg((output.flags & wire::kNegative) != 0);
        const size_t needed = at::detail::computeStorageNbytes(output.sizes, output.strides, tensor.element_size(),
                                                               static_cast<size_t>(output.offset));
        auto* storage = impl->unsafe_storage().unsafeGetStorageImpl();
        if (needed > storage->nbytes()) note_resized(storage, needed);
        taught.reusable = false;
      }
      output = Output();
      output.kind = wire::OutputKind::kAlias;
      output.argument = static_cast<uint32_t>(written);
    } else if (output.kind >= wire::OutputKind::kInt) {
      taught.reusable = false;
    }
  }
  taught.outputs = std::move(outputs);
  return taught;
}

bool is_local(const Operator& op, const std::vector<Output>& outputs) {
  return !op.writes && !outputs.empty() && count_new(outputs) == 0;
}

}  // namespace elara::client
