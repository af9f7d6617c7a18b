#include "client/takeover/hooks.h"

#include <ATen/detail/CUDAHooksInterface.h>

#include <cstring>

#include "client/attach/devices.h"
#include "client/takeover/generator.h"
#include "client/takeover/pinned.h"
#include "client/takeover/storage.h"
#include "client/transport/session.h"

namespace elara::client {

namespace {

class Hooks final : public at::CUDAHooksInterface {
 public:
  void init() const override { checked_ordinal(current_device()); }
  bool isBuilt() const override { return true; }
  // Whether a device is there now: this is also how torch.accelerator and the autograd engine find "cuda".
  bool isAvailable() const override { return attached_count() > 0; }
  bool hasCUDA() const override { return attached_count() > 0; }
  // Decides for which devices the autograd engine remembers the caller's streams.
  bool hasPrimaryContext(c10::DeviceIndex index) const override {
    poll_attachment();
    bool open = false;
    visit_open_sessions([&](Session& session) { open = open || session.ordinal() == index; });
    return open;
  }

  const at::Generator& getDefaultGenerator(c10::DeviceIndex index) const override { return default_generator(index); }
  at::Generator getNewGenerator(c10::DeviceIndex index) const override { return new_generator(index); }
  at::Device getDeviceFromPtr(void* pointer) const override {
    const StorageRecord* record = find_record(pointer);
    TORCH_CHECK(record != nullptr,
                "The specified pointer resides on host memory and is not registered with any CUDA device.");
    return {c10::kCUDA, static_cast<c10::DeviceIndex>(record->session->ordinal())};
  }

  bool isPinnedPtr(const void* pointer) const override { return is_pinned(pointer); }
  c10::Allocator* getPinnedMemoryAllocator() const override { return pinned_allocator(); }
  c10::Allocator* getCUDADeviceAllocator() const override { return device_allocator(-1); }

  c10::DeviceIndex deviceCount() const override { return static_cast<c10::DeviceIndex>(attached_count()); }
  int getNumGPUs() const override { return attached_count(); }
  c10::DeviceIndex current_device() const override { return getCurrentDevice(); }
  c10::DeviceIndex getCurrentDevice() const override { return static_cast<c10::DeviceIndex>(client::current_device()); }
  void setCurrentDevice(c10::DeviceIndex index) const override { set_current_device(checked_ordinal(index)); }
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex index) const override {
    const c10::DeviceIndex before = getCurrentDevice();
    if (index >= 0) setCurrentDevice(index);
    return before;
  }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex index) const override { return exchangeDevice(index); }
  void deviceSynchronize(c10::DeviceIndex index) const override { session_at(checked_ordinal(index))->synchronize(); }

  // Which of the two a GPU's PyTorch prefers may be asked for; one without it keeps to what it has.
  bool hasCuSOLVER() const override { return true; }
  bool hasMAGMA() const override { return true; }
  long versionCuDNN() const override { return 0; }
  long versionRuntimeCuDNN() const override { return 0; }
  long versionCUDART() const override { return 13000; }
  std::string showConfig() const override { return "  - Elara remote devices"; }
};

}  // namespace

void install_hooks() {
  // `import torch` has asked for the hooks already and keeps the object it got, in a CPU build as in a CUDA build
  // (where a second registration would moreover end the process). So that very object becomes ours: neither class has
  // data members, and every call is virtual.
  static_assert(sizeof(Hooks) == sizeof(at::CUDAHooksInterface) && sizeof(Hooks) == sizeof(void*));
  static auto* ours = new Hooks;
  auto* theirs = const_cast<at::CUDAHooksInterface*>(&at::detail::getCUDAHooks());
  std::memcpy(static_cast<void*>(theirs), static_cast<const void*>(ours), sizeof(void*));
}

}  // namespace elara::client
