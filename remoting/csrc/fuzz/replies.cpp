// Fuzzes what a client takes from a device server: outputs that were taught, texts, a node's refusal. The first byte of
// the input chooses.
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

#include "client/metadata/outputs.h"
#include "client/transport/readable.h"
#include "net/stream.h"

using namespace elara;

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

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0 || size > (64 << 10)) return 0;
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  try {
    switch (data[0] % 3) {
      case 0:
        take_outputs(bytes);
        break;
      case 1: {
        const std::string text = client::readable(bytes);
        if (client::readable(text) != text && text.size() < 20'000) std::abort();
        break;
      }
      default:
        take_refusal(bytes);
    }
  } catch (const wire::ProtocolError&) {
  } catch (const net::ConnectionLost&) {
  }
  return 0;
}
