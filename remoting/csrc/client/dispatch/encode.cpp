#include "client/dispatch/encode.h"

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <cstring>
#include <memory>
#include <vector>

#include "client/attach/devices.h"
#include "client/takeover/generator.h"
#include "client/takeover/storage.h"
#include "client/transport/session.h"

namespace elara::client {

namespace {

using wire::Tag;

struct Scratchpad {
  std::vector<std::unique_ptr<Call>> calls;
  size_t depth = 0;
};
thread_local Scratchpad t_scratch;

class Encoder {
 public:
  Encoder(const Operator& op, Call& call) : op_(op), key_(call.key), variables_(call.variables), call_(call) {}

  void argument(const c10::IValue& value, size_t index) {
    index_ = index;
    put(value, op_.scalar_argument[index]);
  }

 private:
  void tag(Tag tag) { key_.put(tag); }

  [[noreturn]] void raise_devices(const std::string& here, const c10::Device& there) {
    TORCH_CHECK(false, "Expected all tensors to be on the same device, but found at least two devices, ", here, " and ",
                there, "! (when checking argument for argument ", op_.handle.schema().arguments()[index_].name(),
                " in method wrapper_CUDA_", op_.name.substr(op_.name.find(':') + 2), ")");
  }

  void tensor(const at::Tensor& tensor) {
    if (!tensor.defined()) return tag(Tag::kUndefined);
    auto* impl = tensor.unsafeGetTensorImpl();
    const auto type = impl->device_type();
    if (type == c10::kCUDA) [[likely]] {
      return device_tensor(tensor, impl);
    }
    if (type == c10::kCPU && impl->dim() == 0 && tensor.layout() == c10::kStrided) return cpu_scalar(tensor, impl);
    const int ordinal = call_.session != nullptr ? call_.session->ordinal() : current_device();
    raise_devices("cuda:" + std::to_string(ordinal), tensor.device());
  }

  void device_tensor(const at::Tensor& tensor, c10::TensorImpl* impl) {
    TORCH_CHECK_NOT_IMPLEMENTED(impl->layout() == c10::kStrided && impl->has_storage(), op_.name,
                                ": tensors of layout ", impl->layout(),
                                " are not supported on an attached GPU; use a dense tensor");
    const Place place = place_of(tensor);
    const std::shared_ptr<Session>& session = place.record->session;
    if (call_.session == nullptr) {
      call_.session = session;
    } else if (call_.session != session) [[unlikely]] {
      raise_devices("cuda:" + std::to_string(call_.session->ordinal()), tensor.device());
    }
    const auto sizes = impl->sizes();
    const auto strides = impl->strides();
    const size_t count = sizes.size();
    TORCH_CHECK(count <= wire::kMaxDimensions, op_.name, ": a tensor has ", count, " dimensions; at most ",
                wire::kMaxDimensions, " are supported");
    char* to = key_.grow(4 + 16 * count);
    to[0] = static_cast<char>(Tag::kTensor);
    to[1] = static_cast<char>(c10::typeMetaToScalarType(impl->dtype()));
    to[2] = static_cast<char>((impl->is_wrapped_number() ? wire::kWrappedNumber : 0) |
                              (impl->is_conj() ? wire::kConjugate : 0) | (impl->is_neg() ? wire::kNegative : 0));
    to[3] = static_cast<char>(count);
    std::memcpy(to + 4, sizes.data(), 8 * count);
    std::memcpy(to + 4 + 8 * count, strides.data(), 8 * count);
    int64_t offset = impl->storage_offset();
    if (place.offset != 0) [[unlikely]] {
      TORCH_CHECK(place.offset % impl->itemsize() == 0, op_.name,
                  ": a tensor's address is not a multiple of its element size");
      offset += static_cast<int64_t>(place.offset / impl->itemsize());
    }
    char* variable = variables_.grow(16);
    std::memcpy(variable, &place.record->id, 8);
    std::memcpy(variable + 8, &offset, 8);
  }

  void cpu_scalar(const at::Tensor& given, c10::TensorImpl* impl) {
    const at::Tensor value = given.is_conj() || given.is_neg() ? given.resolve_conj().resolve_neg() : given;
    tag(Tag::kCpuScalar);
    key_.put(static_cast<uint8_t>(value.scalar_type()));
    key_.put(static_cast<uint8_t>(impl->is_wrapped_number() ? wire::kWrappedNumber : 0));
    char* variable = variables_.grow(16);
    std::memset(variable, 0, 16);
    if (!value._is_zerotensor()) std::memcpy(variable, value.const_data_ptr(), value.element_size());
  }

  void put(const c10::IValue& value, bool scalar) {
    const bool constant = op_.values_matter;
    if (value.isTensor()) {
      tensor(value.toTensor());
    } else if (value.isNone()) {
      tag(Tag::kNone);
    } else if (value.isInt()) {
      integer(value.toInt(), scalar && !constant);
    } else if (value.isDouble()) {
      tag(constant ? Tag::kDouble : Tag::kDoubleVar);
      (constant ? key_ : variables_).put(value.toDouble());
    } else if (value.isBool()) {
      tag(Tag::kBool);
      key_.put(static_cast<uint8_t>(value.toBool()));
    } else if (value.isString()) {
      tag(Tag::kString);
      key_.str(value.toStringRef());
    } else if (value.isDevice()) {
      tag(Tag::kDevice);
      const auto device = value.toDevice();
      if (device.is_cuda()) call_.device_argument = checked_ordinal(device.has_index() ? device.index() : -1);
    } else if (value.isGenerator()) {
      generators_.push_back(variables_.size());
      tag(Tag::kGenerator);
      variables_.put<uint64_t>(0);
    } else if (value.isComplexDouble()) {
      tag(Tag::kComplexVar);
      const auto number = value.toComplexDouble();
      variables_.put(number.real());
      variables_.put(number.imag());
    } else {
      list(value);
    }
  }

  void integer(int64_t value, bool varies) {
    tag(varies ? Tag::kIntVar : Tag::kInt);
    (varies ? variables_ : key_).put(value);
  }

  void count(Tag which, size_t n) {
    tag(which);
    key_.put(static_cast<uint32_t>(n));
  }

  void list(const c10::IValue& value) {
    if (value.isIntList()) {
      const auto items = value.toIntVector();
      count(Tag::kIntList, items.size());
      key_.array(items.data(), items.size());
    } else if (value.isTensorList()) {
      const auto items = value.toListRef();
      count(Tag::kTensorList, items.size());
      for (const auto& item : items) tensor(item.toTensor());
    } else if (value.isOptionalTensorList()) {
      const auto items = value.toOptionalTensorList();
      count(Tag::kOptionalTensorList, items.size());
      for (const auto& element : items) {  // a stand-in for the element
        const std::optional<at::Tensor> item = element;
        if (item && item->defined()) {
          tensor(*item);
        } else {
          tag(Tag::kNone);
        }
      }
    } else if (value.isDoubleList()) {
      const auto items = value.toDoubleVector();
      count(Tag::kDoubleList, items.size());
      variables_.array(items.data(), items.size());
    } else if (value.isBoolList()) {
      const auto items = value.toBoolList();
      count(Tag::kBoolList, items.size());
      for (const bool item : items) key_.put(static_cast<uint8_t>(item));
    } else if (value.isList()) {
      const auto items = value.toListRef();
      count(Tag::kScalarList, items.size());
      for (const auto& item : items) put(item, true);
    } else {
      TORCH_CHECK_NOT_IMPLEMENTED(false, op_.name, ": an argument of type ", value.tagKind(),
                                  " cannot be sent to an attached GPU");
    }
  }

 public:
  // Ids of generators depend on the session, which is known only when all arguments have been seen.
  void resolve_generators(at::ArrayRef<c10::IValue> arguments) {
    size_t next = 0;
    for (const auto& value : arguments) {
      if (!value.isGenerator()) continue;
      const auto generator = value.toGenerator();
      TORCH_CHECK(generator.device().is_cuda(), "Expected a 'cuda' device type for generator but found '",
                  generator.device().type(), "'");
      if (call_.session == nullptr) call_.session = session_at(generator.device().index());
      variables_.patch(generators_[next++], generator_id(generator, *call_.session));
    }
  }
  bool has_generators() const { return !generators_.empty(); }

 private:
  const Operator& op_;
  wire::Writer& key_;
  wire::Writer& variables_;
  Call& call_;
  size_t index_ = 0;
  std::vector<size_t> generators_;
};

}  // namespace

void encode_call(const Operator& op, at::ArrayRef<c10::IValue> arguments, Call& call) {
  call.key.clear();
  call.variables.clear();
  call.session = nullptr;
  call.device_argument = -1;
  Encoder encoder(op, call);
  for (size_t i = 0; i < arguments.size(); ++i) encoder.argument(arguments[i], i);
  if (encoder.has_generators()) encoder.resolve_generators(arguments);
}

CallScratch::CallScratch() {
  if (t_scratch.depth == t_scratch.calls.size()) t_scratch.calls.push_back(std::make_unique<Call>());
  call_ = t_scratch.calls[t_scratch.depth++].get();
}

CallScratch::~CallScratch() {
  call_->session.reset();
  --t_scratch.depth;
}

}  // namespace elara::client
