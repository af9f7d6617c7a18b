#include "server/server.h"

#include <ATen/Parallel.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <c10/util/Exception.h>
#include <torch/version.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <memory>
#include <optional>
#include <stdexcept>
#include <utility>

#include "net/stream.h"
#include "server/accounting_allocator.h"
#include "server/emulated/kernels.h"
#include "server/handshake.h"
#include "server/link.h"
#include "server/session.h"

namespace elara::server {

namespace {

using wire::MessageType;

constexpr std::chrono::seconds kHandshakeTime{10};
constexpr std::chrono::seconds kDeviceTime{60};  // to open it and tell the client

// Warnings of kernels belong to no one here; the client's side gives those that Python gives.
class SilentWarnings final : public c10::WarningHandler {
 public:
  void process(const c10::Warning&) override {}
};

void answer_hello(net::Stream& stream, const ServeOptions& options, const Ledger& ledger,
                  const std::optional<std::chrono::milliseconds>& grace) {
  wire::Writer out;
  const size_t place = out.begin(MessageType::kReply);
  out.put(wire::kProtocolVersion);
  out.str(TORCH_VERSION);
  out.str(options.model);
  out.put<uint64_t>(ledger.cap());
  out.put<uint8_t>(options.emulated ? 1 : 0);
  out.put<uint64_t>(options.memory_bytes);
  if (grace) out.put(static_cast<uint32_t>(grace->count()));
  out.end(place);
  stream.write_all(out.data(), out.size());
}

// The client may be gone already, or not reading.
void send_fatal(net::Stream& stream, const std::string& sentence) noexcept {
  try {
    wire::Writer out;
    const size_t place = out.begin(MessageType::kFatal);
    out.str(sentence);
    out.end(place);
    stream.set_deadline(net::Clock::now() + std::chrono::seconds(2));
    stream.write_all(out.data(), out.size());
  } catch (const std::exception&) {
  }
}

std::unique_ptr<net::Stream> open_stream(int fd, bool tls, const ServeOptions& options,
                                         net::Clock::time_point deadline) {
  if (!tls) return std::make_unique<net::PlainStream>(fd, "the client");
  return net::TlsStream::accept(fd, "the client", options.tls_cert, options.tls_key, deadline);
}

// The node has no such device, or its driver does not work.
class NoDevice : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

std::string first_line(const std::string& text) { return text.substr(0, text.find('\n')); }

// Never destroyed: blocks may be freed until the process ends, and nothing can be after the device was lost.
Device& open_for(const ServeOptions& options, Ledger& ledger) try {
  Device* device = open_device(options.device).release();
  if (device->device().is_cpu()) {
    charge_cpu_memory_to(ledger, options.model);
    emulated::register_kernels();
  } else if (options.limit_memory) {
    options.limit_memory(device->device().index(), options.memory_bytes);
  }
  return *device;
} catch (const c10::Error& error) {
  throw NoDevice(first_line(error.what_without_backtrace()));
} catch (const std::exception& error) {
  throw NoDevice(first_line(error.what()));
}

std::string converse(Link& stream, Peers& peers, const ServeOptions& options, Ledger& ledger) {
  try {
    MessageInput input(stream);
    Wish grace = check_hello(input, options);
    if (grace) grace = std::clamp<std::chrono::milliseconds>(*grace, {}, std::chrono::milliseconds(options.grace_ms));
    // Only now: a CUDA context takes a second and some hundred MiB of the device, which is not for strangers.
    stream.set_deadline(net::Clock::now() + kDeviceTime);
    Device& device = open_for(options, ledger);
    answer_hello(stream, options, ledger, grace);
    stream.set_deadline(std::nullopt);
    const bool connected = options.control_fd >= 0;
    if (connected) stream.take_connections(grace.value_or(Wish::value_type{}), options, &open_stream, peers);
    auto session = std::make_unique<Session>(stream, input, device, ledger, options, connected ? &peers : nullptr);
    try {
      session->run();
    } catch (const DeviceLost& lost) {
      // Freeing what lies on the device would fail as everything does there now; the process ends with its session.
      session->forfeit();
      (void)session.release();
      send_fatal(stream, std::string("The device server ended the session after ") + lost.what() +
                             ". What was on the GPU is gone: detach, attach again, and load it from a checkpoint.");
      return std::string("device lost: ") + lost.what();
    }
    return "goodbye";
  } catch (const Refused& refused) {
    send_fatal(stream, refused.what());
    return refused.log();
  } catch (const NoDevice& error) {
    send_fatal(stream, std::string("The device's node cannot use it (") + error.what() +
                           "). Detach and attach again; if it goes on, tell an administrator.");
    return std::string("no device: ") + error.what();
  } catch (const wire::ProtocolError& error) {
    send_fatal(stream, std::string("The device server ended the session, because the client broke the protocol: ") +
                           error.what() + ".");
    return std::string("protocol error: ") + error.what();
  }
}

}  // namespace

std::string serve(const ServeOptions& options) {
  if (options.secret.size() != wire::kSecretBytes) throw std::invalid_argument("the secret must be 32 bytes");
  std::signal(SIGPIPE, SIG_IGN);  // OpenSSL writes without MSG_NOSIGNAL
  if (options.torch_threads > 0) at::set_num_threads(options.torch_threads);
  static SilentWarnings silent;
  const c10::WarningUtils::WarningHandlerGuard no_warnings(&silent);
  // Autograd is the client's: here are only kernels.
  const at::AutoDispatchBelowADInplaceOrView below_autograd;

  // Never destroyed: blocks may be freed, and so accounted for, until the process ends.
  auto* ledger = new Ledger(options.ledger_fd, options.slot, options.memory_bytes);
  const auto deadline = net::Clock::now() + kHandshakeTime;
  try {
    Peers peers(options.peer_cert, options.peer_key);
    Link stream(open_stream(options.fd, !options.tls_cert.empty(), options, deadline));
    stream.set_deadline(deadline);
    return converse(stream, peers, options, *ledger);
  } catch (const net::ConnectionLost& lost) {
    return std::string("connection lost: ") + lost.what();
  }
}

}  // namespace elara::server
