// Fuzzes what a client takes from a device server: outputs that were taught, texts, a node's refusal, answers. The
// first byte of the input chooses.
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "client/metadata/outputs.h"
#include "client/transport/flusher.h"
#include "client/transport/interrupt.h"
#include "client/transport/link.h"
#include "client/transport/readable.h"
#include "fuzz/memory_stream.h"
#include "net/stream.h"

using namespace elara;

// A link's surroundings: here is neither a flusher nor a user.
namespace elara::client {
void wake_flusher() noexcept {}
void check_interrupt() {}
}  // namespace elara::client

namespace {

void take_outputs(std::string_view bytes) {
  wire::Reader reader(bytes);
  const auto outputs = client::decode_outputs(reader);
  // What was accepted can be said again, byte for byte, as far as a template may hold it.
  if (client::count_bytes(outputs) > (uint64_t{1} << 62) && outputs.size() < 2) std::abort();
  (void)client::count_new(outputs);
}

void take_refusal(std::string_view bytes) {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) std::abort();
  net::PlainStream stream(ends[1], "the node", true);
  const bool sent = ::send(ends[0], bytes.data(), bytes.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(bytes.size());
  ::close(ends[0]);
  if (!sent) return;
  char header[wire::kHeaderBytes];
  for (;;) {
    stream.read_exact(header, sizeof header);
    std::string payload(wire::decode_header(header).length, '\0');
    stream.read_exact(payload.data(), payload.size());
  }
}

// The first bytes say what was asked for: how many answers, and of each how many bytes of data (0: another request).
void take_answers(std::string_view bytes) {
  if (bytes.empty()) return;
  const size_t count = std::min<size_t>(static_cast<uint8_t>(bytes[0]) % 4 + 1, bytes.size() - 1);
  bool dead = false;
  client::Link link;
  client::Link::Owner owner;
  owner.lost = [&](const std::string& reason) {
    (void)client::readable(reason);
    dead = true;
  };
  owner.dead = [&] { return dead; };
  client::Link::Lock lock(link.mutex());
  link.open(std::move(owner), std::make_shared<fuzz::MemoryStream>(bytes.substr(1 + count)), 0, 0,
            std::chrono::milliseconds(0));
  std::vector<std::shared_ptr<client::Answer>> asked;
  std::vector<std::vector<char>> memory;
  for (size_t i = 0; i < count; ++i) {
    asked.push_back(std::make_shared<client::Answer>());
    asked.back()->wanted = static_cast<uint8_t>(bytes[1 + i]) * size_t{16};
    // On the heap and no longer than that, so that a byte too many is seen.
    memory.emplace_back(asked.back()->wanted);
    asked.back()->destination = memory.back().empty() ? nullptr : memory.back().data();
    link.expect(asked.back());
  }
  link.wait(lock, [&] { return asked.empty() || asked.back()->done; });
  if (!dead && link.owed() != 0) std::abort();
  link.close();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0 || size > (64 << 10)) return 0;
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  try {
    switch (data[0] % 4) {
      case 0:
        take_outputs(bytes);
        break;
      case 1: {
        const std::string text = client::readable(bytes);
        if (client::readable(text) != text && text.size() < 20'000) std::abort();
        break;
      }
      case 2:
        take_refusal(bytes);
        break;
      default:
        take_answers(bytes);
    }
  } catch (const wire::ProtocolError&) {
  } catch (const net::ConnectionLost&) {
  }
  return 0;
}
