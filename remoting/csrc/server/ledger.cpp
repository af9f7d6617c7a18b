#include "server/ledger.h"

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <stdexcept>

namespace elara::server {

namespace {

constexpr uint64_t kMagic = 0x4C45444745523031;
constexpr uint64_t kSlots = 63;
constexpr uint64_t kWordsPerSlot = 8;
constexpr uint64_t kFirstSlot = 8;
constexpr size_t kBytes = (kFirstSlot + kSlots * kWordsPerSlot) * sizeof(uint64_t);

enum Field : uint64_t { kMagicWord = 0, kCap = 1, kUsed = 2, kPeak = 3 };
enum SlotField : uint64_t { kSlotUsed = 0, kSlotPid = 1, kSlotOperators = 2, kSlotBusy = 3, kSlotActive = 4 };

void raise_to(std::atomic<uint64_t>& peak, uint64_t value) noexcept {
  uint64_t seen = peak.load(std::memory_order_relaxed);
  while (seen < value && !peak.compare_exchange_weak(seen, value, std::memory_order_relaxed)) {
  }
}

}  // namespace

Ledger::Ledger(int fd, int slot, uint64_t cap_bytes) {
  if (fd >= 0) {
    struct stat status{};
    if (::fstat(fd, &status) != 0 || static_cast<size_t>(status.st_size) < kBytes) {
      throw std::runtime_error("the ledger of the lease is too small");
    }
    if (slot < 0 || static_cast<uint64_t>(slot) >= kSlots) throw std::runtime_error("the ledger has no such slot");
    slot_ = static_cast<uint64_t>(slot);
  }
  const int flags = fd >= 0 ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS;
  void* pages = ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, flags, fd, 0);
  if (pages == MAP_FAILED) throw std::runtime_error("the ledger of the lease cannot be mapped");
  words_ = static_cast<Word*>(pages);
  if (fd < 0) {
    word(kMagicWord) = kMagic;
    word(kCap) = cap_bytes;
  } else if (word(kMagicWord).load() != kMagic) {
    ::munmap(pages, kBytes);
    throw std::runtime_error("the ledger of the lease does not begin with its magic");
  }
  slot_word(kSlotPid) = static_cast<uint64_t>(::getpid());
  note_activity(0, 0);
}

Ledger::~Ledger() { ::munmap(words_, kBytes); }

Ledger::Word& Ledger::slot_word(uint64_t field) const noexcept {
  return words_[kFirstSlot + slot_ * kWordsPerSlot + field];
}

bool Ledger::reserve(uint64_t bytes) noexcept {
  const uint64_t limit = cap();
  const uint64_t before = word(kUsed).fetch_add(bytes, std::memory_order_relaxed);
  // Written so that a forged, huge size cannot wrap around.
  if (bytes > limit || before > limit - bytes) {
    word(kUsed).fetch_sub(bytes, std::memory_order_relaxed);
    return false;
  }
  raise_to(word(kPeak), before + bytes);
  raise_to(session_peak_, slot_word(kSlotUsed).fetch_add(bytes, std::memory_order_relaxed) + bytes);
  return true;
}

void Ledger::release(uint64_t bytes) noexcept {
  slot_word(kSlotUsed).fetch_sub(bytes, std::memory_order_relaxed);
  word(kUsed).fetch_sub(bytes, std::memory_order_relaxed);
}

void Ledger::note_activity(uint64_t operators, uint64_t busy_nanoseconds) noexcept {
  slot_word(kSlotOperators).fetch_add(operators, std::memory_order_relaxed);
  slot_word(kSlotBusy).fetch_add(busy_nanoseconds, std::memory_order_relaxed);
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  const auto nanoseconds = std::chrono::duration_cast<std::chrono::nanoseconds>(now).count();
  slot_word(kSlotActive).store(static_cast<uint64_t>(nanoseconds), std::memory_order_relaxed);
}

uint64_t Ledger::cap() const noexcept { return word(kCap).load(std::memory_order_relaxed); }
uint64_t Ledger::used_by_lease() const noexcept { return word(kUsed).load(std::memory_order_relaxed); }
uint64_t Ledger::used_by_session() const noexcept { return slot_word(kSlotUsed).load(std::memory_order_relaxed); }

void Ledger::reset_session_peak() noexcept { session_peak_ = used_by_session(); }

}  // namespace elara::server
