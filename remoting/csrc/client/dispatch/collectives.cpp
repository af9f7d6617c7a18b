// torch.distributed with tensors on an attached device. Its backends take the addresses of CUDA tensors for memory of
// this machine, and read it: so every collective is refused before one of them hears of it.
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

#include <string>
#include <string_view>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>

#include "client/dispatch/native.h"
#include "client/dispatch/shared.h"

namespace elara::client {

namespace {

// The backend that plans and tests use: it looks at no memory.
bool is_fake(const torch::jit::Stack& arguments) {
  for (const auto& argument : arguments) {
    if (!argument.isObject() || argument.toObjectRef().type()->name()->name() != "ProcessGroup") continue;
    const auto group = argument.toCustomClass<c10d::ProcessGroup>();
    return group->getBackend(c10::kCUDA)->getBackendName() == "fake";
  }
  return false;
}

void refuse(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  if (is_fake(*stack)) {
    op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack);
    return;
  }
  TORCH_CHECK_NOT_IMPLEMENTED(
      false, op.schema().name(),
      ": torch.distributed cannot exchange tensors of attached GPUs yet: exchange tensor.cpu() with the gloo backend, "
      "or train in one process without DistributedDataParallel (nn.DataParallel uses all attached GPUs).");
}

}  // namespace

void refuse_collectives() {
  constexpr std::string_view kNamespace = "c10d::";
  for (const auto key : {c10::DispatchKey::CUDA, c10::DispatchKey::SparseCUDA}) {
    torch::Library& library = library_for(key, "c10d");
    for (const c10::OperatorName& name : c10::Dispatcher::singleton().getRegistrationsForDispatchKey(key)) {
      if (!std::string_view(name.name).starts_with(kNamespace)) continue;
      std::string shown = name.name.substr(kNamespace.size());
      if (!name.overload_name.empty()) shown += "." + name.overload_name;
      library.impl(shown.c_str(), torch::CppFunction::makeFromBoxedFunction<&refuse>());
    }
  }
}

}  // namespace elara::client
