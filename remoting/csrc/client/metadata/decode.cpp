// Outputs as a device server describes them. What it says is not trusted: sizes that cannot be, types that do not
// exist and lists without end are refused here, before a tensor is made of them.
#include <c10/core/ScalarType.h>

#include <string>

#include "client/metadata/outputs.h"

namespace elara::client {

namespace {

using wire::OutputKind;
using wire::ProtocolError;

constexpr uint64_t kMostBytes = uint64_t{1} << 46;  // what the address space for device tensors holds
constexpr uint32_t kMostOutputs = 65'536;

uint64_t multiplied(uint64_t a, uint64_t b) {
  uint64_t product = 0;
  if (__builtin_mul_overflow(a, b, &product) || product > kMostBytes) {
    throw ProtocolError("a result is larger than any memory");
  }
  return product;
}

// Bytes from the first element to the end of the last one.
uint64_t extent_of(const Output& output) {
  uint64_t elements = 1;
  uint64_t last = 0;
  for (size_t i = 0; i < output.sizes.size(); ++i) {
    if (output.sizes[i] < 0 || output.strides[i] < 0) throw ProtocolError("a result has a negative size or stride");
    const auto size = static_cast<uint64_t>(output.sizes[i]);
    if (size > kMostBytes) throw ProtocolError("a result is larger than any memory");
    elements = size == 0 ? 0 : multiplied(elements, size);
    if (size > 1) last += multiplied(size - 1, static_cast<uint64_t>(output.strides[i]));
    if (last > kMostBytes) throw ProtocolError("a result is larger than any memory");
  }
  return elements == 0 ? 0 : multiplied(last + 1, c10::elementSize(output.dtype));
}

void decode_geometry(wire::Reader& reader, Output& output) {
  const auto dtype = reader.get<uint8_t>();
  output.dtype = static_cast<c10::ScalarType>(dtype);
  const bool known = dtype < static_cast<uint8_t>(c10::ScalarType::NumOptions) &&
                     output.dtype != c10::ScalarType::Undefined && !c10::isQIntType(output.dtype) &&
                     !c10::isBitsType(output.dtype);
  if (!known) throw ProtocolError("a result has data type " + std::to_string(dtype) + ", which is not supported");
  output.flags = reader.get<uint8_t>();
  if (output.flags > (wire::kWrappedNumber | wire::kConjugate | wire::kNegative)) {
    throw ProtocolError("a result has flags that this version does not know");
  }
  if ((output.flags & wire::kConjugate) && !c10::isComplexType(output.dtype)) {
    throw ProtocolError("a result that is not complex is marked as conjugated");
  }
  const auto dimensions = reader.get<uint8_t>();
  if (dimensions > wire::kMaxDimensions) throw ProtocolError("a result has more than 64 dimensions");
  output.sizes.resize(dimensions);
  output.strides.resize(dimensions);
  reader.array(output.sizes.data(), dimensions);
  reader.array(output.strides.data(), dimensions);
}

std::vector<Output> decode_list(wire::Reader& reader, bool nested);

Output decode_output(wire::Reader& reader, bool nested) {
  Output output;
  output.kind = reader.get<OutputKind>();
  switch (output.kind) {
    case OutputKind::kNew:
      decode_geometry(reader, output);
      output.bytes = reader.get<uint64_t>();
      if (output.bytes > kMostBytes) throw ProtocolError("a result is larger than any memory");
      if (extent_of(output) > output.bytes) throw ProtocolError("a result is larger than its storage");
      break;
    case OutputKind::kAlias:
      output.argument = reader.get<uint32_t>();
      break;
    case OutputKind::kView:
      output.argument = reader.get<uint32_t>();
      decode_geometry(reader, output);
      (void)extent_of(output);
      output.offset = reader.get<int64_t>();
      if (output.offset < 0 || static_cast<uint64_t>(output.offset) > kMostBytes) {
        throw ProtocolError("a result begins outside of its storage");
      }
      break;
    case OutputKind::kList:
      // No operator returns a list of lists; deeper nesting would only serve to exhaust the stack.
      if (nested) throw ProtocolError("a result is a list of lists");
      output.list = decode_list(reader, true);
      break;
    case OutputKind::kInt:
      output.value = reader.get<int64_t>();
      break;
    case OutputKind::kDouble:
      output.value = reader.get<double>();
      break;
    case OutputKind::kBool:
      output.value = reader.get<uint8_t>() != 0;
      break;
    case OutputKind::kComplex: {
      const auto real = reader.get<double>();
      output.value = c10::complex<double>(real, reader.get<double>());
      break;
    }
    case OutputKind::kUndefined:
    case OutputKind::kNone:
      break;
    default:
      throw ProtocolError("a result is of a kind that this client does not know");
  }
  return output;
}

std::vector<Output> decode_list(wire::Reader& reader, bool nested) {
  const uint32_t count = reader.count(1);
  if (count > kMostOutputs) throw ProtocolError("a list of results is too long");
  std::vector<Output> outputs;
  outputs.reserve(count);
  for (uint32_t i = 0; i < count; ++i) outputs.push_back(decode_output(reader, nested));
  return outputs;
}

}  // namespace

std::vector<Output> decode_outputs(wire::Reader& reader) { return decode_list(reader, false); }

uint32_t count_new(const std::vector<Output>& outputs) {
  uint32_t count = 0;
  for (const Output& output : outputs) {
    count += output.kind == OutputKind::kNew ? 1 : count_new(output.list);
  }
  return count;
}

uint64_t count_bytes(const std::vector<Output>& outputs) {
  uint64_t bytes = 0;
  for (const Output& output : outputs) bytes += output.bytes + count_bytes(output.list);
  return bytes;
}

}  // namespace elara::client
