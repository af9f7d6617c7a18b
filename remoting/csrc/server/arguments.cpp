#include "server/arguments.h"

#include <ATen/core/jit_type.h>

#include <string>
#include <utility>

namespace elara::server {

using wire::OutputKind;
using wire::ProtocolError;
using wire::Tag;

namespace {

constexpr uint64_t kMostBytes = uint64_t{1} << 62;
// An argument takes a byte on the wire and some hundred in memory, so lists of them are bounded apart from the message.
constexpr uint32_t kMostItems = 65'536;

uint32_t parse_count(wire::Reader& in) {
  const auto count = in.count(1);
  if (count > kMostItems) throw ProtocolError("a list of " + std::to_string(count) + " elements is too long");
  return count;
}

c10::ScalarType parse_dtype(uint8_t number) {
  const auto dtype = static_cast<c10::ScalarType>(number);
  // Quantised and sub-byte types have kernels that trust their callers.
  const bool known = number < static_cast<uint8_t>(c10::ScalarType::NumOptions) &&
                     dtype != c10::ScalarType::Undefined && !c10::isQIntType(dtype) && !c10::isBitsType(dtype) &&
                     (c10::isIntegralType(dtype, true) || c10::isFloatingType(dtype) || c10::isComplexType(dtype));
  if (!known) throw ProtocolError("a tensor has data type " + std::to_string(number) + ", which is not supported");
  return dtype;
}

uint64_t checked_multiply(uint64_t a, uint64_t b) {
  uint64_t product = 0;
  if (__builtin_mul_overflow(a, b, &product) || product > kMostBytes) {
    throw ProtocolError("a tensor's shape is larger than any memory");
  }
  return product;
}

}  // namespace

TensorSpec TensorSpec::parse(wire::Reader& in) {
  TensorSpec spec;
  spec.dtype = parse_dtype(in.get<uint8_t>());
  spec.flags = in.get<uint8_t>();
  if (spec.flags > (wire::kWrappedNumber | wire::kConjugate | wire::kNegative)) {
    throw ProtocolError("a tensor has flags that this version does not know");
  }
  if ((spec.flags & wire::kConjugate) && !c10::isComplexType(spec.dtype)) {
    throw ProtocolError("a tensor that is not complex is marked as conjugated");
  }
  const auto dimensions = in.get<uint8_t>();
  if (dimensions > wire::kMaxDimensions) throw ProtocolError("a tensor has more than 64 dimensions");
  spec.sizes.resize(dimensions);
  spec.strides.resize(dimensions);
  in.array(spec.sizes.data(), dimensions);
  in.array(spec.strides.data(), dimensions);

  uint64_t elements = 1;
  uint64_t last = 0;
  for (size_t i = 0; i < dimensions; ++i) {
    if (spec.sizes[i] < 0 || spec.strides[i] < 0) throw ProtocolError("a tensor has a negative size or stride");
    const auto size = static_cast<uint64_t>(spec.sizes[i]);
    // Also sizes beside a zero stay bounded: kernels multiply them.
    elements = size == 0 ? 0 : checked_multiply(elements, size);
    if (size > kMostBytes) throw ProtocolError("a tensor's shape is larger than any memory");
    if (size > 1) last += checked_multiply(size - 1, static_cast<uint64_t>(spec.strides[i]));
    if (last > kMostBytes) throw ProtocolError("a tensor's shape is larger than any memory");
  }
  spec.extent = elements == 0 ? 0 : checked_multiply(last + 1, spec.item_bytes());
  return spec;
}

Argument Argument::parse(wire::Reader& in, bool nested) {
  Argument argument;
  argument.tag = in.get<Tag>();
  switch (argument.tag) {
    case Tag::kNone:
      break;
    case Tag::kUndefined:
      argument.constant = at::Tensor();
      break;
    case Tag::kTensor:
      argument.tensor = TensorSpec::parse(in);
      break;
    case Tag::kCpuScalar:
      argument.tensor.dtype = parse_dtype(in.get<uint8_t>());
      argument.tensor.flags = in.get<uint8_t>();
      break;
    case Tag::kInt:
      argument.constant = in.get<int64_t>();
      break;
    case Tag::kDouble:
      argument.constant = in.get<double>();
      break;
    case Tag::kBool:
      argument.constant = in.get<uint8_t>() != 0;
      break;
    case Tag::kString:
      argument.constant = std::string(in.str());
      break;
    case Tag::kDtype:
      argument.constant = static_cast<int64_t>(parse_dtype(in.get<uint8_t>()));
      break;
    case Tag::kLayout: {
      const auto layout = in.get<uint8_t>();
      if (layout != static_cast<uint8_t>(c10::kStrided)) throw ProtocolError("only strided layouts are supported");
      argument.constant = static_cast<int64_t>(layout);
      break;
    }
    case Tag::kMemoryFormat: {
      const auto format = in.get<uint8_t>();
      if (format >= static_cast<uint8_t>(c10::MemoryFormat::NumOptions)) {
        throw ProtocolError("a memory format is unknown");
      }
      argument.constant = static_cast<int64_t>(format);
      break;
    }
    case Tag::kIntVar:
    case Tag::kDoubleVar:
    case Tag::kComplexVar:
    case Tag::kDevice:
    case Tag::kGenerator:
      break;
    case Tag::kIntList: {
      std::vector<int64_t> values(in.count(sizeof(int64_t)));
      in.array(values.data(), values.size());
      argument.constant = values;
      break;
    }
    case Tag::kBoolList: {
      c10::List<bool> values;
      const auto count = in.count(1);
      for (uint32_t i = 0; i < count; ++i) values.push_back(in.get<uint8_t>() != 0);
      argument.constant = values;
      break;
    }
    case Tag::kDoubleList:
      argument.count = in.get<uint32_t>();
      if (argument.count > wire::kMaxPayload / sizeof(double)) throw ProtocolError("a list is too long");
      break;
    case Tag::kTensorList:
    case Tag::kOptionalTensorList:
    case Tag::kScalarList: {
      // One level is all that operators have; deeper nesting would only serve to exhaust the stack.
      if (nested) throw ProtocolError("a list of lists is not an argument of any operator");
      const auto count = parse_count(in);
      argument.items.reserve(count);
      for (uint32_t i = 0; i < count; ++i) {
        argument.items.push_back(parse(in, true));
        const Tag tag = argument.items.back().tag;
        const bool number = tag == Tag::kInt || tag == Tag::kIntVar || tag == Tag::kDouble || tag == Tag::kDoubleVar ||
                            tag == Tag::kBool || tag == Tag::kComplexVar;
        const bool tensor = tag == Tag::kTensor || tag == Tag::kCpuScalar || tag == Tag::kUndefined;
        const bool good = argument.tag == Tag::kScalarList   ? number
                          : argument.tag == Tag::kTensorList ? tensor
                                                             : tensor || tag == Tag::kNone;
        if (!good) throw ProtocolError("a list holds an element of another kind");
      }
      break;
    }
    default:
      throw ProtocolError("an argument has tag " + std::to_string(static_cast<int>(argument.tag)) +
                          ", which this version does not know");
  }
  return argument;
}

bool Argument::fits(const c10::Type& type) const {
  switch (type.kind()) {
    case c10::TypeKind::OptionalType:
      return tag == Tag::kNone || fits(*type.castRaw<c10::OptionalType>()->getElementType());
    case c10::TypeKind::TensorType:
      return tag == Tag::kTensor || tag == Tag::kCpuScalar || tag == Tag::kUndefined;
    case c10::TypeKind::NumberType:
      return tag == Tag::kInt || tag == Tag::kIntVar || tag == Tag::kDouble || tag == Tag::kDoubleVar ||
             tag == Tag::kBool || tag == Tag::kComplexVar;
    case c10::TypeKind::IntType:
    case c10::TypeKind::SymIntType:
      return tag == Tag::kInt || tag == Tag::kIntVar || tag == Tag::kDtype || tag == Tag::kLayout ||
             tag == Tag::kMemoryFormat;
    case c10::TypeKind::ScalarTypeType:
      return tag == Tag::kDtype;
    case c10::TypeKind::LayoutType:
      return tag == Tag::kLayout;
    case c10::TypeKind::MemoryFormatType:
      return tag == Tag::kMemoryFormat;
    case c10::TypeKind::FloatType:
    case c10::TypeKind::SymFloatType:
      return tag == Tag::kDouble || tag == Tag::kDoubleVar;
    case c10::TypeKind::BoolType:
    case c10::TypeKind::SymBoolType:
      return tag == Tag::kBool;
    case c10::TypeKind::StringType:
      return tag == Tag::kString;
    case c10::TypeKind::DeviceObjType:
      return tag == Tag::kDevice;
    case c10::TypeKind::GeneratorType:
      return tag == Tag::kGenerator;
    case c10::TypeKind::ListType: {
      const c10::Type& element = *type.castRaw<c10::ListType>()->getElementType();
      switch (element.kind()) {
        case c10::TypeKind::TensorType:
          return tag == Tag::kTensorList;
        case c10::TypeKind::OptionalType:
          return tag == Tag::kOptionalTensorList;
        case c10::TypeKind::NumberType:
          return tag == Tag::kScalarList;
        case c10::TypeKind::IntType:
        case c10::TypeKind::SymIntType:
          return tag == Tag::kIntList;
        case c10::TypeKind::FloatType:
          return tag == Tag::kDoubleList;
        case c10::TypeKind::BoolType:
          return tag == Tag::kBoolList;
        default:
          return false;
      }
    }
    default:
      return false;
  }
}

Output Output::parse(wire::Reader& in, bool nested) {
  Output output;
  output.kind = in.get<OutputKind>();
  switch (output.kind) {
    case OutputKind::kNew:
      output.tensor = TensorSpec::parse(in);
      output.storage_bytes = in.get<uint64_t>();
      if (output.storage_bytes > kMostBytes) throw ProtocolError("an output's storage is larger than any memory");
      break;
    case OutputKind::kAlias:
      output.argument = in.get<uint32_t>();
      break;
    case OutputKind::kView:
      output.argument = in.get<uint32_t>();
      output.tensor = TensorSpec::parse(in);
      output.offset = in.get<int64_t>();
      break;
    case OutputKind::kUndefined:
    case OutputKind::kNone:
      break;
    case OutputKind::kList: {
      if (nested) throw ProtocolError("an output is a list of lists");
      const auto count = parse_count(in);
      output.items.reserve(count);
      for (uint32_t i = 0; i < count; ++i) output.items.push_back(parse(in, true));
      break;
    }
    default:
      throw ProtocolError("an output has kind " + std::to_string(static_cast<int>(output.kind)) +
                          ", which no template may have");
  }
  return output;
}

uint64_t Output::new_storages() const {
  if (kind == OutputKind::kNew) return 1;
  uint64_t count = 0;
  for (const Output& item : items) count += item.new_storages();
  return count;
}

}  // namespace elara::server
