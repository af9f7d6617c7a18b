// Arguments and outputs as a template defines them: parsed and checked once, filled with a call's variables each time.
#pragma once

#include <ATen/core/TensorBase.h>
#include <ATen/core/function_schema.h>
#include <ATen/core/ivalue.h>
#include <c10/core/DispatchKeySet.h>
#include <c10/util/SmallVector.h>

#include <cstdint>
#include <vector>

#include "server/generators.h"
#include "server/storages.h"
#include "wire/codec.h"

namespace elara::server {

// A tensor's shape, with all that can be checked about it without its storage.
struct TensorSpec {
  c10::ScalarType dtype = c10::kFloat;
  uint8_t flags = 0;
  c10::SmallVector<int64_t, 5> sizes;
  c10::SmallVector<int64_t, 5> strides;
  // Bytes from the first element to the end of the last one; 0 for an empty tensor.
  uint64_t extent = 0;

  // dtype, flags, ndim, sizes, strides. Throws wire::ProtocolError on a negative, overflowing or unknown one.
  static TensorSpec parse(wire::Reader& in);
  uint64_t item_bytes() const { return c10::elementSize(dtype); }
};

struct Argument {
  wire::Tag tag = wire::Tag::kNone;
  c10::IValue constant;
  TensorSpec tensor;            // kTensor, kCpuScalar (dtype and flags only)
  uint32_t count = 0;           // kDoubleList
  std::vector<Argument> items;  // lists

  static Argument parse(wire::Reader& in, bool nested = false);
  // Whether torch's boxed calling convention takes it for a parameter of that type. A mismatch would end in an
  // assertion, or worse.
  bool fits(const c10::Type& type) const;
};

struct Output {
  wire::OutputKind kind = wire::OutputKind::kUndefined;
  TensorSpec tensor;
  uint64_t storage_bytes = 0;  // kNew
  uint32_t argument = 0;       // kAlias, kView
  int64_t offset = 0;          // kView
  std::vector<Output> items;   // kList

  static Output parse(wire::Reader& in, bool nested = false);
  // How many storage ids it binds.
  uint64_t new_storages() const;
};

// Makes a tensor of `spec` at `offset` (in elements) of `storage`, after checking that it lies within; throws
// wire::ProtocolError.
at::Tensor make_tensor(const TensorSpec& spec, const c10::Storage& storage, int64_t offset);

// Turns arguments and a call's variables into the values that torch's boxed kernels take.
class ArgumentReader {
 public:
  ArgumentReader(StorageTable& storages, Generators& generators, c10::Device device)
      : storages_(storages), generators_(generators), device_(device) {}

  // Throws wire::ProtocolError, and WorkError for a poisoned storage (the variables are then not read to their end).
  c10::IValue value(const Argument& argument, wire::Reader& variables);

 private:
  at::Tensor tensor(const Argument& argument, wire::Reader& variables);

  StorageTable& storages_;
  Generators& generators_;
  c10::Device device_;
};

}  // namespace elara::server
