#include "client/takeover/generator.h"

#include <ATen/Functions.h>
#include <c10/core/GeneratorImpl.h>
#include <c10/util/Exception.h>

#include <atomic>
#include <cstring>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "client/attach/devices.h"
#include "client/transport/session.h"

namespace elara::client {

namespace {

std::atomic<uint64_t> g_next_generator{1};  // 0 is every session's default one

class RemoteGenerator final : public c10::GeneratorImpl {
 public:
  RemoteGenerator(int ordinal, uint64_t id)
      : GeneratorImpl(c10::Device(c10::kCUDA, static_cast<c10::DeviceIndex>(ordinal)),
                      c10::DispatchKeySet(c10::DispatchKey::CUDA)),
        id_(id) {}
  ~RemoteGenerator() override {
    if (id_ == 0 || is_forked()) return;
    const auto session = open_session();
    if (!session) return;
    try {
      session->send([&](wire::Writer& out) {
        const size_t place = out.begin(wire::MessageType::kGeneratorFree);
        out.put(id_);
        out.end(place);
      });
    } catch (...) {
      // Gone with its session.
    }
  }

  static c10::DeviceType device_type() { return c10::kCUDA; }

  void set_current_seed(uint64_t seed) override {
    std::lock_guard lock(state_mutex_);
    seed_ = seed;
    state_.clear();
    // Not yet used anywhere: the seed goes out when a session first needs it, so that manual_seed() connects nowhere.
    if (const auto session = open_session()) send_to(*session);
  }
  uint64_t current_seed() const override { return seed_; }
  uint64_t seed() override {
    set_current_seed(c10::detail::getNonDeterministicRandom(true));
    return seed_;
  }
  void set_offset(uint64_t offset) override {
    TORCH_CHECK(offset == 0, "this GPU's generator cannot be moved to an offset; save and restore its state instead");
  }
  uint64_t get_offset() const override { return 0; }

  void set_state(const c10::TensorImpl& state) override {
    TORCH_CHECK(
        state.device_type() == c10::kCPU && state.is_contiguous() && state.dtype() == caffe2::TypeMeta::Make<uint8_t>(),
        "RNG state must be a torch.ByteTensor");
    std::lock_guard lock(state_mutex_);
    state_.assign(static_cast<const char*>(state.data()), static_cast<size_t>(state.numel()));
    if (const auto session = open_session()) send_to(*session);
  }
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override {
    auto* self = const_cast<RemoteGenerator*>(this);
    const auto session = session_at(device().index());
    const uint64_t id = self->id_on(*session);
    const std::string bytes = session->request([&](wire::Writer& out) {
      const size_t place = out.begin(wire::MessageType::kGeneratorGet);
      out.put(id);
      out.end(place);
    });
    at::Tensor state = at::empty({static_cast<int64_t>(bytes.size())}, at::TensorOptions().dtype(at::kByte));
    std::memcpy(state.mutable_data_ptr(), bytes.data(), bytes.size());
    return state.getIntrusivePtr();
  }

  uint64_t id_on(Session& session) {
    std::lock_guard lock(state_mutex_);
    if (known_to_.lock().get() != &session) {
      known_to_ = session.weak_from_this();
      send_to(session);
    }
    return id_;
  }

 private:
  // The session that knows this generator, if it is still of use.
  std::shared_ptr<Session> open_session() const {
    auto session = known_to_.lock();
    return session && session->is_open() ? session : nullptr;
  }
  // Sends what this generator's numbers start from; the lock is held.
  void send_to(Session& session) {
    session.send([&](wire::Writer& out) {
      const bool whole = !state_.empty();
      const size_t place = out.begin(whole ? wire::MessageType::kGeneratorSet : wire::MessageType::kGeneratorSeed);
      out.put(id_);
      if (whole) {
        out.bytes(state_.data(), state_.size());
      } else {
        out.put(seed_);
      }
      out.end(place);
    });
  }

  RemoteGenerator* clone_impl() const override {
    auto* copy = new RemoteGenerator(device().index(), g_next_generator++);
    copy->seed_ = seed_;
    if (open_session()) {
      const auto state = get_state();
      copy->state_.assign(static_cast<const char*>(state->data()), static_cast<size_t>(state->numel()));
    } else {
      copy->state_ = state_;
    }
    return copy;
  }

  const uint64_t id_;
  std::mutex state_mutex_;
  uint64_t seed_ = c10::default_rng_seed_val;
  std::string state_;  // as last set by the user; drawing has moved the server's on since
  std::weak_ptr<Session> known_to_;
};

RemoteGenerator& remote(const at::Generator& generator) {
  TORCH_CHECK(generator.defined() && generator.device().is_cuda(),
              "Expected a 'cuda' device type for generator but found '", generator.device().type(), "'");
  return *static_cast<RemoteGenerator*>(generator.unsafeGetGeneratorImpl());
}

}  // namespace

const at::Generator& default_generator(int ordinal) {
  static auto* generators = [] {
    auto* made = new std::vector<at::Generator>;
    for (int i = 0; i < kMostDevices; ++i) made->push_back(at::make_generator<RemoteGenerator>(i, uint64_t{0}));
    return made;
  }();
  const int index = ordinal < 0 ? current_device() : ordinal;
  TORCH_CHECK(index < kMostDevices, "CUDA error: invalid device ordinal");
  return (*generators)[static_cast<size_t>(index)];
}

at::Generator new_generator(int ordinal) {
  return at::make_generator<RemoteGenerator>(ordinal < 0 ? current_device() : ordinal, g_next_generator++);
}

uint64_t generator_id(const at::Generator& generator, Session& session) { return remote(generator).id_on(session); }

void install_generators() {
  add_session_listener([](Session& session) { generator_id(default_generator(session.ordinal()), session); });
}

}  // namespace elara::client
