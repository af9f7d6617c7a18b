#include "ops/op_lists.h"

namespace elara::ops {

namespace {

constexpr OperatorName kForwarded[] = {
#include "forwarded_ops.inc"
};

constexpr OperatorName kAllowed[] = {
#include "allowed_ops.inc"
};

using c10::DispatchKey;
constexpr SharedName kShared[] = {
#include "shared_ops.inc"
};

constexpr OperatorName kRefused[] = {
#include "refused_ops.inc"
};

constexpr std::array<uint8_t, wire::kDigestBytes> kDigest = {
#include "op_digest.inc"
};

}  // namespace

std::span<const OperatorName> forwarded() { return kForwarded; }
std::span<const OperatorName> allowed() { return kAllowed; }
std::span<const SharedName> shared() { return kShared; }
std::span<const OperatorName> refused() { return kRefused; }
const std::array<uint8_t, wire::kDigestBytes>& digest() { return kDigest; }

}  // namespace elara::ops
