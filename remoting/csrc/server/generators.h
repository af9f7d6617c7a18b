// The random generators of one session. Number 0 is the device's default one; each has its own state.
#pragma once

#include <ATen/core/Generator.h>

#include <cstdint>
#include <string_view>
#include <unordered_map>

#include "wire/codec.h"

namespace elara::server {

class Generators {
 public:
  // Seeds the default generator as a new process of a client finds it.
  explicit Generators(c10::Device device);

  // Throws wire::ProtocolError on an unknown number.
  at::Generator& get(uint64_t number);
  // These two make a generator that is not there yet.
  void seed(uint64_t number, uint64_t seed);
  // Throws c10::Error on bytes that are no state of this kind of device.
  void set_state(uint64_t number, std::string_view state);
  void write_state(uint64_t number, wire::Writer& out);
  void erase(uint64_t number);

 private:
  at::Generator& get_or_make(uint64_t number);

  c10::Device device_;
  std::unordered_map<uint64_t, at::Generator> generators_;
};

}  // namespace elara::server
