#include "server/generators.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/detail/CUDAHooksInterface.h>

#include <cstring>
#include <mutex>
#include <string>

namespace elara::server {

namespace {

// Each holds some 5 KB.
constexpr size_t kMostGenerators = 16'384;

at::Generator new_generator(c10::Device device) {
  if (device.is_cpu()) return at::detail::createCPUGenerator();
  return at::detail::getCUDAHooks().getNewGenerator(device.index());
}

}  // namespace

Generators::Generators(c10::Device device) : device_(device) {
  at::Generator standard = at::globalContext().defaultGenerator(device);
  std::lock_guard<std::mutex> guard(standard.mutex());
  standard.set_current_seed(c10::default_rng_seed_val);
  generators_.emplace(0, standard);
}

at::Generator& Generators::get(uint64_t number) {
  const auto found = generators_.find(number);
  if (found == generators_.end()) throw wire::ProtocolError("there is no generator " + std::to_string(number));
  return found->second;
}

at::Generator& Generators::get_or_make(uint64_t number) {
  const auto found = generators_.find(number);
  if (found != generators_.end()) return found->second;
  if (generators_.size() >= kMostGenerators) throw wire::ProtocolError("the session holds too many generators");
  return generators_.emplace(number, new_generator(device_)).first->second;
}

void Generators::seed(uint64_t number, uint64_t seed) {
  at::Generator& generator = get_or_make(number);
  std::lock_guard<std::mutex> guard(generator.mutex());
  generator.set_current_seed(seed);
}

void Generators::set_state(uint64_t number, std::string_view state) {
  at::Generator& generator = get_or_make(number);
  at::Tensor bytes = at::empty({static_cast<int64_t>(state.size())}, at::kByte);
  if (!state.empty()) std::memcpy(bytes.mutable_data_ptr(), state.data(), state.size());
  std::lock_guard<std::mutex> guard(generator.mutex());
  generator.set_state(bytes);
}

void Generators::write_state(uint64_t number, wire::Writer& out) {
  at::Generator& generator = get(number);
  std::lock_guard<std::mutex> guard(generator.mutex());
  const at::Tensor state = generator.get_state().contiguous();
  out.bytes(state.const_data_ptr(), state.nbytes());
}

void Generators::erase(uint64_t number) {
  if (number != 0) generators_.erase(number);
}

}  // namespace elara::server
