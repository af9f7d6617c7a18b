#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/util/Exception.h>

#include <memory>
#include <string>

#include "client/sparse/kernels.h"
#include "ops/op_lists.h"

namespace elara::client::sparse {

namespace {

using c10::DispatchKey;

// torch has one function for the CPU and for CUDA where only indices and values matter, and a CPU build registers it
// for the CPU alone. What is to fall apart is what it is for the CPU.
class SharedKernel final : public c10::OperatorKernel {
 public:
  explicit SharedKernel(c10::SafeKernelFunction kernel) : kernel_(std::move(kernel)) {}
  void operator()(const c10::OperatorHandle& op, c10::DispatchKeySet keys, torch::jit::Stack* stack) {
    kernel_.callBoxed(op, keys, stack);
  }

 private:
  c10::SafeKernelFunction kernel_;
};

void refuse(const c10::OperatorHandle& op, torch::jit::Stack*) {
  TORCH_CHECK_NOT_IMPLEMENTED(false, op.schema().name(),
                              " is not supported for sparse tensors on an attached GPU; use a dense tensor "
                              "(tensor.to_dense()) or the CPU (tensor.cpu())");
}

torch::Library& library_for(DispatchKey key, const char* space) {
  // Leaked: a library that is destroyed takes its kernels away.
  return *new torch::Library(torch::Library::IMPL, space, key, __FILE__, static_cast<uint32_t>(__LINE__));
}

void register_shared(torch::Library& library, DispatchKey from, DispatchKey to) {
  auto& dispatcher = c10::Dispatcher::singleton();
  for (const auto& listed : ops::shared()) {
    if (listed.from != from) continue;
    const auto op = dispatcher.findSchema({listed.name, listed.overload});
    if (!op || !op->hasComputedKernelForDispatchKey(from)) continue;
    // Ours stands there, or a CUDA build's, which is the same function. At the key of dense tensors it may be another.
    if (to != DispatchKey::CUDA && op->hasKernelForDispatchKey(to)) continue;
    std::string name(listed.name + sizeof("aten::") - 1);
    if (*listed.overload != '\0') name += std::string(".") + listed.overload;
    library.impl(name.c_str(), torch::CppFunction::makeFromBoxedFunctor(
                                   std::make_unique<SharedKernel>(op->getComputedKernelForDispatchKey(from))));
  }
}

bool is_shared(const c10::OperatorName& name, DispatchKey key) {
  const auto from = key == DispatchKey::SparseCUDA ? DispatchKey::SparseCPU : DispatchKey::SparseCsrCPU;
  for (const auto& listed : ops::shared()) {
    if (listed.from == from && name.name == listed.name && name.overload_name == listed.overload) return true;
  }
  return false;
}

// A CUDA build has kernels of its own here, which would ask the machine's CUDA runtime. What ours do not replace
// refuses, as in a CPU build. Those that touch only indices and values stay.
void refuse_cuda_kernels(DispatchKey key) {
  auto& dispatcher = c10::Dispatcher::singleton();
  torch::Library& library = library_for(key, "aten");
  for (const auto& name : dispatcher.getAllOpNames()) {
    const auto op = dispatcher.findSchema(name);
    if (!op || !name.name.starts_with("aten::") || !op->hasKernelForDispatchKey(key) || is_shared(name, key)) continue;
    std::string plain = name.name.substr(sizeof("aten::") - 1);
    if (!name.overload_name.empty()) plain += "." + name.overload_name;
    library.impl(plain.c_str(), torch::CppFunction::makeFromBoxedFunction<&refuse>());
  }
}

}  // namespace

void register_kernels() {
  for (const auto key : {DispatchKey::SparseCUDA, DispatchKey::SparseCsrCUDA}) refuse_cuda_kernels(key);
  torch::Library& coo = library_for(DispatchKey::SparseCUDA, "aten");
  register_coo(coo);
  register_products(coo);
  torch::Library& compressed = library_for(DispatchKey::SparseCsrCUDA, "aten");
  register_compressed(compressed);
  register_shared(library_for(DispatchKey::CUDA, "aten"), DispatchKey::CPU, DispatchKey::CUDA);
  register_shared(coo, DispatchKey::SparseCPU, DispatchKey::SparseCUDA);
  register_shared(compressed, DispatchKey::SparseCsrCPU, DispatchKey::SparseCsrCUDA);
  for (const auto key : {DispatchKey::SparseCUDA, DispatchKey::SparseCsrCUDA}) {
    library_for(key, "_").fallback(torch::CppFunction::makeFromBoxedFunction<&refuse>());
  }
}

}  // namespace elara::client::sparse
