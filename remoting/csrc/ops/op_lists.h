// The operators that client and device server agree on (see generate.py), and the digest that proves it.
#pragma once

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

// What the client registers a forwarding kernel for.
std::span<const OperatorName> forwarded();
// What a device server runs.
std::span<const OperatorName> allowed();
// SHA-256 over both lists and their schemas.
ELARA_API const std::array<uint8_t, wire::kDigestBytes>& digest();

}  // namespace elara::ops
