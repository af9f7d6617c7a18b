#include "client/transport/welcome.h"

#include <stdexcept>

namespace elara::client {

namespace {

// An honest one is a few hundred bytes long; nothing is known of this server yet.
constexpr uint32_t kLongest = 64 << 10;

}  // namespace

Welcome read_welcome(net::Stream& stream) {
  char front[wire::kHeaderBytes];
  stream.read_exact(front, sizeof front);
  const auto header = wire::decode_header(front);
  if (header.length > kLongest) throw wire::ProtocolError("the answer to the hello is too long");
  Welcome welcome;
  welcome.type = header.type;
  welcome.payload.resize(header.length);
  stream.read_exact(welcome.payload.data(), welcome.payload.size());
  wire::Reader reader(welcome.payload);
  if (header.type == wire::MessageType::kFatal) throw std::runtime_error(std::string(reader.str()));
  if (header.type == wire::MessageType::kError) return welcome;
  if (header.type != wire::MessageType::kReply) throw wire::ProtocolError("the hello was answered with something else");
  const auto version = reader.get<uint16_t>();
  if (version != wire::kProtocolVersion) {
    throw std::runtime_error("the node speaks version " + std::to_string(version) + " of the protocol, this client " +
                             std::to_string(wire::kProtocolVersion) + "; update the older of the two");
  }
  welcome.facts.torch_version = reader.str();
  welcome.facts.model = reader.str();
  welcome.facts.memory_cap = reader.get<uint64_t>();
  welcome.facts.emulated = reader.get<uint8_t>() != 0;
  welcome.facts.memory_total = reader.get<uint64_t>();
  welcome.grace = std::chrono::milliseconds(reader.done() ? 0 : reader.get<uint32_t>());
  return welcome;
}

}  // namespace elara::client
