// What an operator returns: known before the server has run it.
#pragma once

#include <ATen/core/ivalue.h>
#include <c10/core/ScalarType.h>
#include <c10/util/DimVector.h>

#include <cstdint>
#include <vector>

#include "wire/codec.h"

namespace elara::client {

class Session;

struct Output {
  wire::OutputKind kind = wire::OutputKind::kUndefined;
  c10::ScalarType dtype = c10::ScalarType::Float;
  uint8_t flags = 0;
  uint32_t argument = 0;  // kAlias, kView
  int64_t offset = 0;     // kView, elements
  uint64_t bytes = 0;     // kNew
  c10::DimVector sizes;
  c10::DimVector strides;
  std::vector<Output> list;  // kList
  c10::IValue value;         // kInt, kDouble, kBool, kComplex (only taught, never cached)
};

// A fresh tensor that looks like `tensor` (a result of a Meta kernel).
Output output_like(const at::Tensor& tensor);

void encode_outputs(wire::Writer& out, const std::vector<Output>& outputs);
// What a device server says that an operator returned (decode.cpp). Throws wire::ProtocolError on what cannot be.
std::vector<Output> decode_outputs(wire::Reader& reader);

// How many storages of their own the outputs have, and their bytes.
uint32_t count_new(const std::vector<Output>& outputs);
uint64_t count_bytes(const std::vector<Output>& outputs);

// Makes the client's tensor (or list, or value) for an output; takes ids from `storage` on for fresh storages.
c10::IValue build_output(const Output& output, Session& session, uint64_t& storage,
                         at::ArrayRef<c10::IValue> arguments);

}  // namespace elara::client
