#include "client/dispatch/foreign.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

#include <array>
#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>

#include "client/dispatch/execute.h"
#include "client/metadata/captured.h"

namespace elara::client {

namespace {

// PyTorch's own, which the generated list and the fallback serve. c10d's kernels at this key are those of collectives.
constexpr std::array<std::string_view, 16> kOwn = {
    "aten",      "prim",       "prims",    "prims_cpu", "c10d",   "_c10d_functional", "_c10d_functional_autograd",
    "quantized", "_quantized", "inductor", "onednn",    "mkldnn", "xnnpack",          "profiler",
    "symm_mem",  "streams"};

std::atomic<bool> g_dirty{true};

// Called with the dispatcher's lock held, as soon as an operator is defined and before its kernels are there.
class Listener final : public c10::OpRegistrationListener {
 public:
  void onOperatorRegistered(const c10::OperatorHandle& op) override {
    if (!g_dirty.load(std::memory_order_acquire) && is_foreign(op.schema().name()))
      g_dirty.store(true, std::memory_order_release);
  }
  void onOperatorDeregistered(const c10::OperatorHandle&) override {}
};

struct Quiet final : c10::WarningHandler {
  void process(const c10::Warning&) override {}
};

void forward(const c10::OperatorHandle& op, torch::jit::Stack* stack) { execute(operator_for(op), *stack); }

class Registry {
 public:
  void scan() {
    std::lock_guard lock(mutex_);
    auto& dispatcher = c10::Dispatcher::singleton();
    Quiet quiet;
    c10::WarningUtils::WarningHandlerGuard silence(&quiet);
    for (const auto& name : dispatcher.getAllOpNames()) {
      if (!is_foreign(name.name) || taken_.contains(name)) continue;
      const auto op = dispatcher.findSchema(name);
      // A kernel in Python is made of other operators, or of something that says so itself.
      if (!op || !has_native_kernel(*op, c10::DispatchKey::CUDA)) continue;
      const std::string space = name.name.substr(0, name.name.find("::"));
      std::string plain = name.name.substr(space.size() + 2);
      if (!name.overload_name.empty()) plain += "." + name.overload_name;
      library(space).impl(plain.c_str(), torch::CppFunction::makeFromBoxedFunction<&forward>());
      taken_.insert(name);
    }
  }

 private:
  struct Less {
    bool operator()(const c10::OperatorName& a, const c10::OperatorName& b) const {
      return a.name != b.name ? a.name < b.name : a.overload_name < b.overload_name;
    }
  };
  // Leaked with the registry: a library that is destroyed takes its kernels away.
  torch::Library& library(const std::string& space) {
    auto& made = libraries_[space];
    if (!made) {
      made = std::make_unique<torch::Library>(torch::Library::IMPL, space, c10::DispatchKey::CUDA, __FILE__, __LINE__);
    }
    return *made;
  }

  std::mutex mutex_;
  std::map<std::string, std::unique_ptr<torch::Library>> libraries_;
  std::set<c10::OperatorName, Less> taken_;
};

}  // namespace

bool is_foreign(std::string_view name) {
  const std::string_view space = name.substr(0, name.find("::"));
  for (const auto own : kOwn) {
    if (space == own) return false;
  }
  return true;
}

void watch_foreign_operators() {
  static auto* handle = new c10::RegistrationHandleRAII(
      c10::Dispatcher::singleton().addRegistrationListener(std::make_unique<Listener>()));
  (void)handle;
}

void take_over_foreign_operators() {
  if (!g_dirty.load(std::memory_order_acquire)) [[likely]] {
    return;
  }
  static auto* registry = new Registry;
  // Before the look: what is defined during it is looked for at the next call.
  g_dirty.store(false, std::memory_order_release);
  registry->scan();
}

}  // namespace elara::client
