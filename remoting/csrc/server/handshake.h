// The first message of a connection: what a client has to show before anything is done for it. Both read what a
// stranger may send.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>

#include "net/stream.h"
#include "server/message_input.h"
#include "server/server.h"

namespace elara::server {

// A client whose opening was not accepted: `what()` goes to the client, `log()` to the log.
class Refused : public std::runtime_error {
 public:
  Refused(const std::string& sentence, std::string log) : std::runtime_error(sentence), log_(std::move(log)) {}
  const std::string& log() const { return log_; }

 private:
  std::string log_;
};

// How long the client wants lost connections to be waited for; nullopt for one that does not know how to come back.
using Wish = std::optional<std::chrono::milliseconds>;

// Reads a kHello. Throws Refused, wire::ProtocolError, net::ConnectionLost.
Wish check_hello(MessageInput& input, const ServeOptions& options);

// Reads a kResume and returns how much of the server's stream the client has; nullopt for anything else and for another
// secret. Throws wire::ProtocolError, net::ConnectionLost.
std::optional<uint64_t> check_resume(net::Stream& stream, const std::string& secret);

}  // namespace elara::server
