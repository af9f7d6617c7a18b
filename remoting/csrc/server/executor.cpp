#include "server/executor.h"

#include <ATen/ATen.h>
#include <ATen/EmptyTensor.h>

#include <sstream>
#include <string>
#include <utility>

namespace elara::server {

using wire::OutputKind;

namespace {

uint8_t flags_of(const at::Tensor& tensor) {
  return static_cast<uint8_t>((tensor.unsafeGetTensorImpl()->is_wrapped_number() ? wire::kWrappedNumber : 0) |
                              (tensor.is_conj() ? wire::kConjugate : 0) | (tensor.is_neg() ? wire::kNegative : 0));
}

constexpr uint8_t kBits = wire::kConjugate | wire::kNegative;

// Strides of dimensions with fewer than two elements say nothing.
bool same_layout(const at::Tensor& made, const TensorSpec& expected) {
  if (made.numel() == 0) return true;
  const auto strides = made.strides();
  for (size_t i = 0; i < expected.sizes.size(); ++i) {
    if (expected.sizes[i] > 1 && strides[i] != expected.strides[i]) return false;
  }
  return true;
}

void put_shape(const at::Tensor& tensor, wire::Writer& reply) {
  reply.put(static_cast<uint8_t>(tensor.scalar_type()));
  reply.put(flags_of(tensor));
  reply.put(static_cast<uint8_t>(tensor.dim()));
  reply.array(tensor.sizes().data(), tensor.sizes().size());
  reply.array(tensor.strides().data(), tensor.strides().size());
}

std::string library_of(const Operator& op) { return op.name.substr(0, op.name.find("::")); }

std::string refusal(const Operator& op) {
  if (!op.foreign) return "a device server does not run this operator";
  return "the device's node does not have this operator of the library " + library_of(op) +
         "; call it with tensors on the CPU (.cpu()), or ask an administrator to install the library on the node";
}

void check_plain(const at::Tensor& tensor) {
  if (tensor.layout() != c10::kStrided || !tensor.has_storage()) {
    throw WorkError(wire::ErrorKind::kNotImplemented,
                    "its result has a layout that remote devices do not support yet (sparse or opaque)");
  }
}

// A tensor of its own memory, laid out as asked. Conjugate and negative bits are resolved unless they are asked for.
at::Tensor copy_as(const at::Tensor& source, at::IntArrayRef sizes, at::IntArrayRef strides, uint8_t flags) {
  at::Tensor copy = at::empty_strided(sizes, strides, source.options());
  if (flags & wire::kConjugate) copy.unsafeGetTensorImpl()->_set_conj(true);
  if (flags & wire::kNegative) copy.unsafeGetTensorImpl()->_set_neg(true);
  copy.copy_(source);
  return copy;
}

}  // namespace

Executor::Executor(Device& device, StorageTable& storages, Generators& generators, ErrorSlot& errors)
    : device_(device), storages_(storages), errors_(errors), reader_(storages, generators, device.device()) {}

void Executor::run(const Call& call, wire::Reader& variables) {
  ++executed_;
  if (!call.op->handle) throw WorkError(wire::ErrorKind::kRefused, refusal(*call.op));
  if (call.other_version) {
    throw WorkError(wire::ErrorKind::kRefused, "the device's node has another version of the library " +
                                                   library_of(*call.op) + ", in which it takes other arguments");
  }
  call_ = &call;
  stack_.clear();
  tensor_arguments_.clear();
  for (const Argument& argument : call.arguments) {
    stack_.push_back(reader_.value(argument, variables));
    tensor_arguments_.push_back(argument.tag == wire::Tag::kTensor ? stack_.back().toTensor() : at::Tensor());
    share_identity();
  }
  if (call.op->check != nullptr && device_.device().is_cpu()) call.op->check(stack_);
  call.op->handle->callBoxed(&stack_);
}

// Kernels ask whether an output is an input, too: the last argument becomes an earlier one that is the same tensor.
void Executor::share_identity() {
  const at::Tensor& last = tensor_arguments_.back();
  if (!last.defined()) return;
  for (size_t i = 0; i + 1 < tensor_arguments_.size(); ++i) {
    const at::Tensor& earlier = tensor_arguments_[i];
    if (!earlier.defined() || !earlier.storage().is_alias_of(last.storage())) continue;
    if (earlier.scalar_type() != last.scalar_type() || earlier.storage_offset() != last.storage_offset()) continue;
    if (earlier.sizes() != last.sizes() || earlier.strides() != last.strides()) continue;
    if (flags_of(earlier) != flags_of(last)) continue;
    stack_.back() = earlier;
    tensor_arguments_.back() = earlier;
    return;
  }
}

void Executor::execute(const Template& call, uint64_t first_output, wire::Reader& variables) {
  uint64_t bound = 0;
  try {
    run(call, variables);
    if (stack_.size() != call.outputs.size()) {
      throw wire::ProtocolError(call.op->name + " has " + std::to_string(stack_.size()) +
                                " outputs, not as many as its template");
    }
    uint64_t id = first_output;
    for (size_t i = 0; i < call.outputs.size(); ++i) {
      bind(call.outputs[i], stack_[i], id);
      bound = id - first_output;
    }
  } catch (...) {
    errors_.keep_current(executed_, call.op->name);
    for (uint64_t i = bound; i < call.new_storages; ++i) storages_.poison(first_output + i);
  }
  stack_.clear();
  tensor_arguments_.clear();
}

void Executor::bind(const Output& expected, const c10::IValue& value, uint64_t& id) {
  switch (expected.kind) {
    case OutputKind::kNew:
      if (!value.isTensor()) throw wire::ProtocolError("an output that is no tensor is bound to a storage");
      bind_new(expected, value.toTensor(), id++);
      break;
    case OutputKind::kAlias:
    case OutputKind::kView:
      if (!value.isTensor()) throw wire::ProtocolError("an output that is no tensor is an alias of one");
      check_argument(expected, value.toTensor());
      break;
    case OutputKind::kList: {
      if (!value.isTensorList()) throw wire::ProtocolError("an output that is no list is bound to several storages");
      const auto list = value.toTensorList();
      if (list.size() != expected.items.size()) {
        throw std::runtime_error("its list of results has " + std::to_string(list.size()) + " tensors, where " +
                                 std::to_string(expected.items.size()) + " were expected");
      }
      for (size_t i = 0; i < list.size(); ++i) bind(expected.items[i], list.get(i), id);
      break;
    }
    default:
      break;
  }
}

at::Tensor Executor::on_device(const at::Tensor& made) const {
  // CUDA's kernels leave some numbers on the host, such as the seed of an attention's dropout, and its gradient reads
  // them there. A larger result belongs where the client takes it to be.
  return made.device() == device_.device() || made.dim() == 0 ? made : made.to(device_.device());
}

void Executor::bind_new(const Output& expected, const at::Tensor& result, uint64_t id) {
  const TensorSpec& spec = expected.tensor;
  if (!result.defined()) throw std::runtime_error("one of its results is undefined, where a tensor was expected");
  check_plain(result);
  const at::Tensor made = on_device(result);
  if (made.sizes() != at::IntArrayRef(spec.sizes) || made.scalar_type() != spec.dtype) {
    std::ostringstream text;
    text << "its result is " << made.scalar_type() << made.sizes() << ", where " << spec.dtype
         << at::IntArrayRef(spec.sizes) << " was expected";
    throw std::runtime_error(text.str());
  }
  // The client counts on the layout it was told and on memory that nothing else shares.
  const bool as_expected = made.storage_offset() == 0 && same_layout(made, spec) &&
                           (flags_of(made) & kBits) == (spec.flags & kBits) && made.storage().use_count() == 1 &&
                           made.storage().nbytes() >= std::max(spec.extent, expected.storage_bytes);
  if (as_expected) {
    storages_.bind(id, made.storage());
    return;
  }
  at::Tensor copy = copy_as(made, spec.sizes, spec.strides, spec.flags);
  c10::Storage storage = copy.storage();
  if (storage.nbytes() < expected.storage_bytes) {
    c10::Storage larger = device_.allocate(expected.storage_bytes);
    device_.copy(larger, storage, storage.nbytes());
    storage = std::move(larger);
  }
  storages_.bind(id, std::move(storage));
}

void Executor::check_argument(const Output& expected, const at::Tensor& made) const {
  const at::Tensor& argument = tensor_arguments_[expected.argument];
  if (!argument.defined() || !made.defined()) {
    throw std::runtime_error("its result is not the argument that was expected");
  }
  check_plain(made);
  // An `out=` argument that the operator resized is the same tensor, and no longer what the client takes it for.
  const bool same_shape = expected.kind == OutputKind::kAlias
                              ? shape_unchanged(expected.argument, made)
                              : made.sizes() == at::IntArrayRef(expected.tensor.sizes) &&
                                    same_layout(made, expected.tensor) && made.storage_offset() == expected.offset;
  if (!same_shape || !made.storage().is_alias_of(argument.storage())) {
    throw std::runtime_error("its result is not the view of its argument that was expected");
  }
}

bool Executor::shape_unchanged(size_t number, const at::Tensor& made) const {
  const TensorSpec& passed = call_->arguments[number].tensor;
  return made.sizes() == at::IntArrayRef(passed.sizes) && same_layout(made, passed);
}

bool Executor::teach(const Call& call, uint64_t first_output, wire::Reader& variables, wire::Writer& reply) {
  const size_t start = reply.size();
  uint64_t id = first_output;
  bool done = false;
  try {
    run(call, variables);
    reply.put(static_cast<uint32_t>(stack_.size()));
    for (const c10::IValue& value : stack_) describe(value, id, reply);
    done = true;
  } catch (...) {
    reply.truncate(start);
    errors_.keep_current(executed_, call.op->name);
    for (uint64_t bound = first_output; bound < id; ++bound) storages_.erase(bound);
  }
  stack_.clear();
  tensor_arguments_.clear();
  return done;
}

void Executor::describe(const c10::IValue& value, uint64_t& id, wire::Writer& reply) {
  if (value.isTensor()) {
    describe_tensor(value.toTensor(), id, reply);
  } else if (value.isTensorList()) {
    const auto list = value.toTensorList();
    reply.put(OutputKind::kList);
    reply.put(static_cast<uint32_t>(list.size()));
    for (size_t i = 0; i < list.size(); ++i) describe_tensor(list.get(i), id, reply);
  } else if (value.isInt()) {
    reply.put(OutputKind::kInt);
    reply.put<int64_t>(value.toInt());
  } else if (value.isDouble()) {
    reply.put(OutputKind::kDouble);
    reply.put<double>(value.toDouble());
  } else if (value.isBool()) {
    reply.put(OutputKind::kBool);
    reply.put<uint8_t>(value.toBool() ? 1 : 0);
  } else if (value.isComplexDouble()) {
    reply.put(OutputKind::kComplex);
    reply.put<double>(value.toComplexDouble().real());
    reply.put<double>(value.toComplexDouble().imag());
  } else if (value.isNone()) {
    reply.put(OutputKind::kNone);
  } else {
    throw WorkError(wire::ErrorKind::kNotImplemented,
                    "its result is a " + value.tagKind() + ", which cannot be sent to the client");
  }
}

void Executor::describe_tensor(at::Tensor made, uint64_t& id, wire::Writer& reply) {
  if (!made.defined()) {
    reply.put(OutputKind::kUndefined);
    return;
  }
  check_plain(made);
  for (size_t i = 0; i < tensor_arguments_.size(); ++i) {
    const at::Tensor& argument = tensor_arguments_[i];
    if (!argument.defined() || !made.storage().is_alias_of(argument.storage())) continue;
    // What was resized in place is the same tensor, but the client has yet to learn its shape.
    const TensorSpec& passed = call_->arguments[i].tensor;
    const bool untouched = made.is_same(argument) && made.sizes() == at::IntArrayRef(passed.sizes) &&
                           made.strides() == at::IntArrayRef(passed.strides) &&
                           (flags_of(made) & kBits) == (passed.flags & kBits);
    reply.put(untouched ? OutputKind::kAlias : OutputKind::kView);
    reply.put(static_cast<uint32_t>(i));
    if (!untouched) {
      put_shape(made, reply);
      reply.put<int64_t>(made.storage_offset());
    }
    return;
  }
  made = on_device(made);
  if (made.storage_offset() != 0 || made.storage().use_count() != 1) {
    const bool dense = made.is_non_overlapping_and_dense();
    made = dense ? copy_as(made, made.sizes(), made.strides(), flags_of(made)) : made.contiguous().clone();
  }
  storages_.bind(id++, made.storage());
  reply.put(OutputKind::kNew);
  put_shape(made, reply);
  reply.put<uint64_t>(made.storage().nbytes());
}

}  // namespace elara::server
