// A call's variables, put into the arguments that its template defines.
#include <ATen/ATen.h>

#include <cstring>
#include <string>

#include "server/arguments.h"

namespace elara::server {

using wire::ProtocolError;
using wire::Tag;

namespace {

at::Tensor cpu_scalar(const TensorSpec& spec, const char* bytes) {
  at::Tensor value = at::empty({}, at::TensorOptions().dtype(spec.dtype));
  std::memcpy(value.mutable_data_ptr(), bytes, spec.item_bytes());
  if (spec.flags & wire::kWrappedNumber) value.unsafeGetTensorImpl()->set_wrapped_number(true);
  return value;
}

}  // namespace

at::Tensor make_tensor(const TensorSpec& spec, const c10::Storage& storage, int64_t offset) {
  const uint64_t item = spec.item_bytes();
  const uint64_t size = storage.nbytes();
  const bool within =
      offset >= 0 && spec.extent <= size && static_cast<uint64_t>(offset) <= (size - spec.extent) / item;
  // A tensor without elements reads nothing, wherever it begins.
  if (!within && !(spec.extent == 0 && offset >= 0)) {
    throw ProtocolError("a tensor that needs " + std::to_string(spec.extent) + " bytes at element " +
                        std::to_string(offset) + " is outside of its storage of " + std::to_string(size) + " bytes");
  }
  const auto backend = storage.device().is_cpu() ? c10::DispatchKey::CPU : c10::DispatchKey::CUDA;
  at::Tensor made = at::detail::make_tensor<c10::TensorImpl>(c10::Storage(storage), c10::DispatchKeySet(backend),
                                                             c10::scalarTypeToTypeMeta(spec.dtype));
  c10::TensorImpl* impl = made.unsafeGetTensorImpl();
  impl->set_sizes_and_strides(spec.sizes, spec.strides, offset);
  if (spec.flags != 0) {
    if (spec.flags & wire::kWrappedNumber && spec.sizes.empty()) impl->set_wrapped_number(true);
    if (spec.flags & wire::kConjugate) impl->_set_conj(true);
    if (spec.flags & wire::kNegative) impl->_set_neg(true);
  }
  return made;
}

at::Tensor ArgumentReader::tensor(const Argument& argument, wire::Reader& variables) {
  if (argument.tag == Tag::kTensor) {
    const auto id = variables.get<uint64_t>();
    const auto offset = variables.get<int64_t>();
    return make_tensor(argument.tensor, storages_.get(id), offset);
  }
  if (argument.tag == Tag::kCpuScalar) return cpu_scalar(argument.tensor, variables.bytes(16));
  return at::Tensor();
}

c10::IValue ArgumentReader::value(const Argument& argument, wire::Reader& variables) {
  switch (argument.tag) {
    case Tag::kTensor:
    case Tag::kCpuScalar:
      return tensor(argument, variables);
    case Tag::kIntVar:
      return variables.get<int64_t>();
    case Tag::kDoubleVar:
      return variables.get<double>();
    case Tag::kComplexVar: {
      const auto real = variables.get<double>();
      return c10::complex<double>(real, variables.get<double>());
    }
    case Tag::kDoubleList: {
      std::vector<double> values(argument.count);
      variables.array(values.data(), values.size());
      return values;
    }
    case Tag::kTensorList: {
      c10::List<at::Tensor> list;
      list.reserve(argument.items.size());
      for (const Argument& item : argument.items) list.push_back(tensor(item, variables));
      return list;
    }
    case Tag::kOptionalTensorList: {
      c10::List<std::optional<at::Tensor>> list;
      list.reserve(argument.items.size());
      for (const Argument& item : argument.items) {
        if (item.tag == Tag::kNone) {
          list.push_back(std::nullopt);
        } else {
          list.push_back(tensor(item, variables));
        }
      }
      return list;
    }
    case Tag::kScalarList: {
      c10::impl::GenericList list(c10::NumberType::get());
      list.reserve(argument.items.size());
      for (const Argument& item : argument.items) list.push_back(value(item, variables));
      return list;
    }
    case Tag::kDevice:
      return device_;
    case Tag::kGenerator:
      return generators_.get(variables.get<uint64_t>());
    default:
      return argument.constant;
  }
}

}  // namespace elara::server
