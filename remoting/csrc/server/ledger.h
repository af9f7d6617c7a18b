// The shared account of one (lease, device): who uses how much memory, and when each session was last active.
//
// Laid out in docs/contracts.md, 5. All sessions of the lease on this device and the node agent map the same pages.
#pragma once

#include <atomic>
#include <cstdint>

namespace elara::server {

class Ledger {
 public:
  // Maps the memfd `fd`, which stays the caller's, and uses `slot` of it. With fd -1 there is no one to share with: the
  // account is private and its cap is `cap_bytes`. Throws std::runtime_error when the pages are not a ledger.
  Ledger(int fd, int slot, uint64_t cap_bytes);
  ~Ledger();
  Ledger(const Ledger&) = delete;
  Ledger& operator=(const Ledger&) = delete;

  // Takes `bytes` off what the lease may still use. False, and nothing taken, when they would pass the cap.
  bool reserve(uint64_t bytes) noexcept;
  void release(uint64_t bytes) noexcept;

  // Adds to the session's activity, as of now.
  void note_activity(uint64_t operators, uint64_t busy_nanoseconds) noexcept;

  uint64_t cap() const noexcept;
  uint64_t used_by_lease() const noexcept;
  uint64_t used_by_session() const noexcept;
  uint64_t session_peak() const noexcept { return session_peak_.load(std::memory_order_relaxed); }
  void reset_session_peak() noexcept;

 private:
  using Word = std::atomic<uint64_t>;
  static_assert(Word::is_always_lock_free, "the ledger is shared between processes");

  Word& word(uint64_t index) const noexcept { return words_[index]; }
  Word& slot_word(uint64_t field) const noexcept;

  Word* words_ = nullptr;
  uint64_t slot_ = 0;
  Word session_peak_{0};
};

}  // namespace elara::server
