#include "client/transport/connect.h"

#include <sys/random.h>

#include <fstream>
#include <iterator>
#include <stdexcept>

namespace elara::client {

namespace {

// One id a process: the node starts one device server for it on each device.
const std::array<uint8_t, 16>& session_id() {
  static const std::array<uint8_t, 16> id = [] {
    std::array<uint8_t, 16> bytes{};
    if (::getrandom(bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size())) {
      throw std::runtime_error("this system gives no random numbers");
    }
    return bytes;
  }();
  return id;
}

std::string read_file(const std::string& path) {
  if (path.empty()) return {};
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

// The node may have to reach another one for it.
constexpr std::chrono::seconds kPeerTime{8};

}  // namespace

bool on_one_node(const AttachedDevice& first, const AttachedDevice& second) {
  return first.local == second.local && first.tcp == second.tcp;
}

std::string authority_of(const AttachedDevice& device) { return read_file(device.ca); }

std::shared_ptr<net::Stream> connect_device(const Attachment& attachment, const AttachedDevice& device, bool resume,
                                            std::chrono::milliseconds timeout) {
  net::Preamble preamble;
  preamble.kind = net::Preamble::Kind::kCommand;
  preamble.ordinal = static_cast<uint8_t>(device.ordinal);
  preamble.lease = attachment.lease;
  preamble.session = session_id();
  preamble.resume = resume;
  return net::connect_stream({device.local, device.tcp, read_file(device.ca)}, preamble, timeout);
}

bool connect_peers(const Attachment& attachment, const AttachedDevice& first, const AttachedDevice& second) {
  net::Preamble preamble;
  preamble.kind = net::Preamble::Kind::kPeer;
  preamble.ordinal = static_cast<uint8_t>(first.ordinal);
  preamble.peer_ordinal = static_cast<uint8_t>(second.ordinal);
  preamble.lease = attachment.lease;
  preamble.session = session_id();
  try {
    return net::ask_node({first.local, first.tcp, {}}, preamble, kPeerTime) == "ELARAPEER";
  } catch (const net::ConnectionLost&) {
    return false;
  }
}

}  // namespace elara::client
