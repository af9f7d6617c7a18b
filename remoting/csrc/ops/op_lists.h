// The operators that client and device server agree on (see generate.py), and the digest that proves it.
#pragma once

#include <c10/core/DispatchKey.h>

#include <array>
#include <cstdint>
#include <span>

#include "wire/export.h"
#include "wire/protocol.h"

namespace elara::ops {

struct OperatorName {
  const char* name;      // "aten::add"
  const char* overload;  // "Tensor", or "" for none
};

struct SharedName {
  const char* name;
  const char* overload;
  c10::DispatchKey from;
};

// What the client registers a forwarding kernel for.
std::span<const OperatorName> forwarded();
// What a device server runs.
std::span<const OperatorName> allowed();
// What the function at `from` serves for, on the CPU as on CUDA devices.
std::span<const SharedName> shared();
// What a CUDA build has a kernel for that no device server runs.
std::span<const OperatorName> refused();
// SHA-256 over both lists and their schemas.
ELARA_API const std::array<uint8_t, wire::kDigestBytes>& digest();

}  // namespace elara::ops
