#include "client/dispatch/shared.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/util/Exception.h>

#include <deque>
#include <memory>
#include <string>

#include "ops/op_lists.h"

namespace elara::client {

namespace {

using c10::DispatchKey;

// A CPU build registers the common function for the CPU alone. What is to fall apart is what it is for the CPU.
class SharedKernel final : public c10::OperatorKernel {
 public:
  explicit SharedKernel(c10::SafeKernelFunction kernel) : kernel_(std::move(kernel)) {}
  void operator()(const c10::OperatorHandle& op, c10::DispatchKeySet keys, torch::jit::Stack* stack) {
    kernel_.callBoxed(op, keys, stack);
  }

 private:
  c10::SafeKernelFunction kernel_;
};

class Refusal final : public c10::OperatorKernel {
 public:
  Refusal(const char* kind, const char* way_out) : kind_(kind), way_out_(way_out) {}
  void operator()(const c10::OperatorHandle& op, c10::DispatchKeySet, torch::jit::Stack*) {
    TORCH_CHECK_NOT_IMPLEMENTED(false, op.schema().name(), " is not supported for ", kind_, " on an attached GPU; ",
                                way_out_);
  }

 private:
  const char* kind_;
  const char* way_out_;
};

// As torch::Library::impl takes it: without "aten::".
std::string plain_name(const c10::OperatorName& name) {
  std::string plain = name.name.substr(sizeof("aten::") - 1);
  if (!name.overload_name.empty()) plain += "." + name.overload_name;
  return plain;
}

void adopt(torch::Library& library, const c10::OperatorHandle& op, DispatchKey from) {
  library.impl(plain_name(op.operator_name()).c_str(),
               torch::CppFunction::makeFromBoxedFunctor(
                   std::make_unique<SharedKernel>(op.getComputedKernelForDispatchKey(from))));
}

bool is_shared(const c10::OperatorName& name, DispatchKey from) {
  for (const auto& listed : ops::shared()) {
    if (listed.from == from && name.name == listed.name && name.overload_name == listed.overload) return true;
  }
  return false;
}

}  // namespace

torch::Library& library_for(DispatchKey key, const char* space) {
  // Never destroyed: a library that is takes its kernels away. Registering happens in one thread.
  static auto* kept = new std::deque<torch::Library>;
  return kept->emplace_back(torch::Library::IMPL, space, key, __FILE__, static_cast<uint32_t>(__LINE__));
}

void register_shared(torch::Library& library, DispatchKey from, DispatchKey to) {
  auto& dispatcher = c10::Dispatcher::singleton();
  for (const auto& listed : ops::shared()) {
    if (listed.from != from) continue;
    const auto op = dispatcher.findSchema({listed.name, listed.overload});
    if (!op || !op->hasComputedKernelForDispatchKey(from)) continue;
    // Ours stands there, or a CUDA build's, which is the same function. At the key of dense tensors it may be another.
    if (to != DispatchKey::CUDA && op->hasKernelForDispatchKey(to)) continue;
    adopt(library, *op, from);
  }
}

void adopt_kernel(torch::Library& library, const char* name, const char* overload, DispatchKey from) {
  const auto op = c10::Dispatcher::singleton().findSchema({std::string("aten::") + name, overload});
  if (op && op->hasComputedKernelForDispatchKey(from)) adopt(library, *op, from);
}

void refuse_others(DispatchKey from, DispatchKey to, const char* kind, const char* way_out) {
  auto& dispatcher = c10::Dispatcher::singleton();
  const auto refusal = [&] {
    return torch::CppFunction::makeFromBoxedFunctor(std::make_unique<Refusal>(kind, way_out));
  };
  torch::Library& library = library_for(to, "aten");
  for (const auto& name : dispatcher.getAllOpNames()) {
    const auto op = dispatcher.findSchema(name);
    if (!op || !name.name.starts_with("aten::") || !op->hasKernelForDispatchKey(to) || is_shared(name, from)) continue;
    library.impl(plain_name(name).c_str(), refusal());
  }
  library_for(to, "_").fallback(refusal());
}

}  // namespace elara::client
