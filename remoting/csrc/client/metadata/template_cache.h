// The calls of an operator seen before: by the constant part of their arguments, with what they return.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "client/metadata/outputs.h"

namespace elara::client {

struct Template {
  uint32_t number = 0;  // on the wire; the same for all sessions
  std::string key;      // the arguments as they stand in kDefineTemplate, without their count
  std::vector<Output> outputs;
  uint32_t new_storages = 0;
  uint64_t new_bytes = 0;
  // Views and aliases only, and nothing written: the server need not hear of it.
  bool local = false;
};

class TemplateCache {
 public:
  std::shared_ptr<const Template> find(std::string_view key);
  // Numbers and keeps it. Past the bound the oldest go, here and on the servers: sequences that grow by one token a
  // step would otherwise fill the memory of both sides.
  std::shared_ptr<const Template> add(Template made);

  static uint64_t total();
  static void set_bound(size_t entries);

 private:
  struct Hash {
    using is_transparent = void;
    size_t operator()(std::string_view key) const noexcept;
  };

  std::mutex mutex_;
  std::unordered_map<std::string, std::shared_ptr<const Template>, Hash, std::equal_to<>> entries_;
  std::deque<std::string_view> order_;  // views of the map's keys, oldest first
};

}  // namespace elara::client
