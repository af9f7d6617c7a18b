// Session: waiting for answers.
#include <algorithm>
#include <vector>

#include "client/transport/interrupt.h"
#include "client/transport/remote_error.h"
#include "client/transport/session.h"

namespace elara::client {

namespace {

InterruptCheck g_interrupt_check = nullptr;

// A download goes in pieces: several are asked for ahead, and never more than the server keeps unacknowledged.
constexpr uint64_t kDownloadPiece = 2u << 20;
constexpr uint64_t kMostOwed = wire::kMaxUnacknowledged - kDownloadPiece - 2 * uint64_t{wire::kAckEvery};

}  // namespace

void set_interrupt_check(InterruptCheck check) { g_interrupt_check = check; }
void check_interrupt() {
  if (g_interrupt_check != nullptr) g_interrupt_check();
}

void Session::await(Link::Lock& lock, Answer& answer) {
  try {
    link_.wait(lock, [&] { return answer.done; });
  } catch (...) {
    // It still comes, and is thrown away.
    answer.destination = nullptr;
    throw;
  }
  if (!answer.done) raise_dead();
}

std::string Session::take_reply(Answer& answer) {
  if (answer.type == wire::MessageType::kError) raise_remote(answer.payload);
  return std::move(answer.payload);
}

void Session::read(uint64_t storage, uint64_t offset, uint64_t bytes, void* destination) {
  if (bytes == 0) return;
  require();
  char* to = static_cast<char*>(destination);
  std::vector<std::shared_ptr<Answer>> asked;
  {
    Link::Lock lock(link_.mutex());
    try {
      for (uint64_t done = 0; done < bytes;) {
        const uint64_t piece = std::min(bytes - done, kDownloadPiece);
        admit(lock);
        link_.wait(lock, [&] { return link_.owed() == 0 || link_.owed() + piece <= kMostOwed; });
        if (is_dead()) raise_dead();
        const size_t place = out_.begin(wire::MessageType::kRead);
        out_.put(storage);
        out_.put(offset + done);
        out_.put(piece);
        out_.end(place);
        flush_locked();
        traffic.requests++;
        auto answer = std::make_shared<Answer>();
        answer->destination = to + done;
        answer->wanted = piece;
        link_.expect(answer);
        asked.push_back(std::move(answer));
        done += piece;
      }
      for (const auto& answer : asked) await(lock, *answer);
    } catch (...) {
      // The caller's memory may be gone before the rest comes.
      for (const auto& answer : asked) answer->destination = nullptr;
      throw;
    }
  }
  for (const auto& answer : asked) {
    if (answer->type == wire::MessageType::kError) raise_remote(answer->payload);
  }
}

void Session::synchronize() {
  request([](wire::Writer& out) { out.end(out.begin(wire::MessageType::kSync)); });
}

void Session::raise_remote(const std::string& payload) { raise_remote_error(*this, payload); }

}  // namespace elara::client
