#include "client/install.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/Allocator.h>
#include <torch/library.h>

#include <atomic>
#include <mutex>

#include "client/attach/devices.h"
#include "client/dispatch/execute.h"
#include "client/dispatch/foreign.h"
#include "client/dispatch/native.h"
#include "client/dispatch/shared.h"
#include "client/nested/kernels.h"
#include "client/sparse/kernels.h"
#include "client/takeover/attention.h"
#include "client/takeover/context.h"
#include "client/takeover/generator.h"
#include "client/takeover/guard.h"
#include "client/takeover/hooks.h"
#include "client/takeover/profiler.h"
#include "client/takeover/storage.h"
#include "ops/op_lists.h"

namespace elara::client {

namespace {

class ForwardingKernel final : public c10::OperatorKernel {
 public:
  explicit ForwardingKernel(const c10::OperatorHandle& op) : handle_(op) {}
  void operator()(const c10::OperatorHandle&, c10::DispatchKeySet, torch::jit::Stack* stack) {
    // What is known of an operator is found out when it is first called, not at import.
    Operator* op = operator_.load(std::memory_order_acquire);
    if (op == nullptr) operator_.store(op = &operator_for(handle_), std::memory_order_release);
    execute(*op, *stack);
  }

 private:
  c10::OperatorHandle handle_;
  std::atomic<Operator*> operator_{nullptr};
};

struct Quiet final : c10::WarningHandler {
  void process(const c10::Warning&) override {}
};

// For operators that nobody listed: those of other libraries, whose device server has them too or says that it has not.
void forward_unlisted(const c10::OperatorHandle& op, torch::jit::Stack* stack) { execute(operator_for(op), *stack); }

// A backend fallback alone would not do: composite registrations outrank it, and `add` would become an allocation and
// an `add.out`, a convolution a dozen calls.
void register_forwarded() {
  static auto* library = new torch::Library(torch::Library::IMPL, "aten", c10::DispatchKey::CUDA, __FILE__, __LINE__);
  // Where a kernel stands at this key already (a Python one in a CPU build, all of them in a CUDA build), ours takes
  // its place, which is worth no warning.
  Quiet quiet;
  c10::WarningUtils::WarningHandlerGuard silence(&quiet);
  auto& dispatcher = c10::Dispatcher::singleton();
  // The device server refuses those of the second list, in words.
  for (const auto list : {ops::forwarded(), ops::refused()}) {
    for (const auto& listed : list) {
      const auto op = dispatcher.findSchema({listed.name, listed.overload});
      if (!op) continue;
      std::string name(listed.name + sizeof("aten::") - 1);
      if (*listed.overload != '\0') name += std::string(".") + listed.overload;
      library->impl(name.c_str(), torch::CppFunction::makeFromBoxedFunctor(std::make_unique<ForwardingKernel>(*op)));
    }
  }
}

}  // namespace

void install(const std::string& runtime_dir, int guards) {
  static std::once_flag once;
  std::call_once(once, [&] {
    configure_devices(runtime_dir, guards);
    install_guard();
    install_hooks();
    install_generators();
    install_context();
    install_attention_choice();
    install_profiler();
    c10::SetAllocator(c10::kCUDA, device_allocator(-1));
    Quiet quiet;  // as below
    c10::WarningUtils::WarningHandlerGuard silence(&quiet);
    // Leaked: a library that is destroyed takes its kernels away.
    static auto* library = new torch::Library(torch::Library::IMPL, "aten", c10::DispatchKey::CUDA, __FILE__, __LINE__);
    register_factories(*library);
    register_copies(*library);
    register_declined(*library);
    nested::register_conversion();
  });
}

void activate() {
  static std::once_flag once;
  std::call_once(once, [] {
    register_forwarded();
    Quiet quiet;  // as above
    c10::WarningUtils::WarningHandlerGuard silence(&quiet);
    // A fallback makes the dispatcher go over every operator there is: not at import, when nothing may ever be
    // attached.
    static auto* fallback = new torch::Library(torch::Library::IMPL, "_", c10::DispatchKey::CUDA, __FILE__, __LINE__);
    fallback->fallback(torch::CppFunction::makeFromBoxedFunction<&forward_unlisted>());
    register_shared(library_for(c10::DispatchKey::CUDA, "aten"), c10::DispatchKey::CPU, c10::DispatchKey::CUDA);
    sparse::register_kernels();
    nested::register_kernels();
    refuse_collectives();
    refuse_others(c10::DispatchKey::QuantizedCPU, c10::DispatchKey::QuantizedCUDA, "quantized tensors",
                  "use the CPU (tensor.cpu())");
    watch_foreign_operators();
  });
}

}  // namespace elara::client
