#include "client/metadata/captured.h"

namespace elara::client {

namespace {

// The dispatcher keeps every kernel that was registered for a key, the newest first, but shows only the newest: for
// most operators a Python function that costs 80 microseconds and more, and sometimes gives other strides than the real
// kernel. Explicit instantiation is the one place where C++ lets a private member be named. Taking the Python kernels
// away for a moment, as its public interface would have it, costs half a second of every `import torch`.
template <class Tag, auto Member>
struct Reveal {
  friend constexpr auto member_of(Tag) { return Member; }
};

struct DefinitionTag {
  friend constexpr auto member_of(DefinitionTag);
};
template struct Reveal<DefinitionTag, &c10::OperatorHandle::operatorDef_>;

struct KernelsTag {
  friend constexpr auto member_of(KernelsTag);
};
template struct Reveal<KernelsTag, &c10::impl::OperatorEntry::kernels_>;

}  // namespace

std::optional<c10::KernelFunction> captured_meta(const c10::OperatorHandle& op) {
  const auto& entry = (op.*member_of(DefinitionTag{}))->op;
  const auto& kernels = entry.*member_of(KernelsTag{});
  const auto found = kernels.find(c10::DispatchKey::Meta);
  if (found == kernels.end()) return std::nullopt;
  for (const auto& registered : found->second) {
    // The file that torch's code generator writes; Python's registrations name a .py file here.
    if (registered.debug.find("RegisterMeta_") != std::string::npos) return registered.kernel;
  }
  return std::nullopt;
}

bool has_native_kernel(const c10::OperatorHandle& op, c10::DispatchKey key) {
  const auto& entry = (op.*member_of(DefinitionTag{}))->op;
  const auto& kernels = entry.*member_of(KernelsTag{});
  const auto found = kernels.find(key);
  return found != kernels.end() && !found->second.empty() &&
         found->second.front().debug.find(".py") == std::string::npos;
}

}  // namespace elara::client
