// Fuzzes the first messages of a connection, before either side knows whom it talks to: what a device server takes from
// a stranger (a hello, or the word to resume), and what a client takes for an answer. The first byte of the input
// chooses.
#include <cstdlib>
#include <numeric>
#include <string>

#include "client/transport/readable.h"
#include "client/transport/welcome.h"
#include "fuzz/memory_stream.h"
#include "server/handshake.h"

using namespace elara;

namespace {

server::ServeOptions options_with_secret() {
  server::ServeOptions options;
  options.secret.resize(wire::kSecretBytes);
  std::iota(options.secret.begin(), options.secret.end(), '\0');
  return options;
}

// Nobody is let in who did not send the secret.
void must_hold(std::string_view bytes, const std::string& secret) {
  if (bytes.find(secret) == std::string_view::npos) std::abort();
}

void greet(std::string_view bytes, const server::ServeOptions& options) {
  fuzz::MemoryStream stream(bytes);
  server::MessageInput input(stream);
  try {
    (void)server::check_hello(input, options);
  } catch (const server::Refused& refused) {
    // What a stranger sent may stand in the log, never the secret.
    if (refused.log().find(options.secret) != std::string::npos) std::abort();
    if (refused.log() == "refused: wrong secret") return;
  }
  must_hold(bytes, options.secret);
}

void resume(std::string_view bytes, const server::ServeOptions& options) {
  fuzz::MemoryStream stream(bytes);
  if (server::check_resume(stream, options.secret)) must_hold(bytes, options.secret);
}

void welcome(std::string_view bytes) {
  fuzz::MemoryStream stream(bytes);
  try {
    const auto answer = client::read_welcome(stream);
    (void)client::readable(answer.facts.model);
  } catch (const std::runtime_error& error) {
    (void)client::readable(error.what());
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  static const server::ServeOptions options = options_with_secret();
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  try {
    switch (data[0] % 3) {
      case 0:
        greet(bytes, options);
        break;
      case 1:
        resume(bytes, options);
        break;
      default:
        welcome(bytes);
    }
  } catch (const wire::ProtocolError&) {
  } catch (const net::ConnectionLost&) {
  }
  return 0;
}
