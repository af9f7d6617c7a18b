#include "client/metadata/template_cache.h"

#include <cstring>

#include "client/attach/devices.h"
#include "client/transport/session.h"

namespace elara::client {

namespace {

std::atomic<uint32_t> g_next_number{1};
std::atomic<uint64_t> g_total{0};
// Templates an operator may have. A training step has a few; text generation has one for each length.
std::atomic<size_t> g_bound{4096};

}  // namespace

// Keys are short runs of 8-byte sizes; a multiply a word is several times faster than the standard hash.
size_t TemplateCache::Hash::operator()(std::string_view key) const noexcept {
  constexpr uint64_t kMultiplier = 0x9E3779B97F4A7C15ull;
  const char* at = key.data();
  size_t left = key.size();
  uint64_t hash = left * kMultiplier;
  for (; left >= 8; at += 8, left -= 8) {
    uint64_t word = 0;
    std::memcpy(&word, at, 8);
    hash = (hash ^ word) * kMultiplier;
    hash ^= hash >> 29;
  }
  if (left != 0) {
    uint64_t word = 0;
    std::memcpy(&word, at, left);
    hash = (hash ^ word) * kMultiplier;
    hash ^= hash >> 32;
  }
  return hash;
}

std::shared_ptr<const Template> TemplateCache::find(std::string_view key) {
  std::lock_guard lock(mutex_);
  const auto found = entries_.find(key);
  return found == entries_.end() ? nullptr : found->second;
}

std::shared_ptr<const Template> TemplateCache::add(Template made) {
  std::vector<uint32_t> dropped;
  std::shared_ptr<const Template> kept;
  {
    std::lock_guard lock(mutex_);
    if (const auto found = entries_.find(std::string_view(made.key)); found != entries_.end()) return found->second;
    const size_t bound = g_bound.load();
    if (entries_.size() >= bound) {
      // A quarter at a time, so that a cache at its bound does not talk to the servers at every call.
      for (size_t i = 0; i < bound / 4 + 1 && !order_.empty(); ++i) {
        const auto oldest = entries_.find(order_.front());
        order_.pop_front();
        dropped.push_back(oldest->second->number);
        entries_.erase(oldest);
        g_total--;
      }
    }
    made.number = g_next_number++;
    made.new_storages = count_new(made.outputs);
    made.new_bytes = count_bytes(made.outputs);
    std::string key = made.key;
    kept = std::make_shared<const Template>(std::move(made));
    const auto [place, inserted] = entries_.emplace(std::move(key), kept);
    order_.push_back(place->first);
    g_total++;
  }
  if (!dropped.empty()) {
    visit_open_sessions([&](Session& session) { session.drop_templates(dropped); });
  }
  return kept;
}

uint64_t TemplateCache::total() { return g_total.load(); }
void TemplateCache::set_bound(size_t entries) { g_bound.store(entries); }

}  // namespace elara::client
