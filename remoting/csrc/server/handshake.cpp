#include "server/handshake.h"

#include <openssl/crypto.h>
#include <torch/version.h>

#include <algorithm>
#include <string_view>

#include "ops/op_lists.h"
#include "wire/codec.h"

namespace elara::server {

namespace {

using wire::MessageType;

constexpr uint32_t kLongestHello = 4096;

std::string minor_version(std::string_view version) {
  const size_t first = version.find('.');
  const size_t second = first == std::string_view::npos ? first : version.find('.', first + 1);
  return std::string(version.substr(0, second));
}

}  // namespace

Wish check_hello(MessageInput& input, const ServeOptions& options) {
  const wire::Header header = input.header();
  if (header.type != MessageType::kHello) throw wire::ProtocolError("the first message is not a hello");
  if (header.length > kLongestHello) throw wire::ProtocolError("the hello is too long");
  wire::Reader in(input.bytes(header.length), header.length);
  const auto version = in.get<uint16_t>();
  const auto torch_version = std::string(in.str());
  const char* digest = in.bytes(wire::kDigestBytes);
  const char* secret = in.bytes(wire::kSecretBytes);
  (void)in.str();  // the client's name
  Wish wish;
  if (!in.done()) wish = std::chrono::milliseconds(in.get<uint32_t>());
  in.expect_done();

  // Nothing about this server is told to someone who does not hold the secret.
  if (CRYPTO_memcmp(secret, options.secret.data(), wire::kSecretBytes) != 0) {
    throw Refused("The device server did not accept the secret of this attachment. Detach and attach again.",
                  "refused: wrong secret");
  }
  if (version != wire::kProtocolVersion) {
    throw Refused("This workspace speaks version " + std::to_string(version) + " of Elara's protocol, the device's " +
                      "node version " + std::to_string(wire::kProtocolVersion) +
                      ". Ask an administrator to install the same version of elara-remoting on both.",
                  "refused: protocol version " + std::to_string(version));
  }
  if (minor_version(torch_version) != minor_version(TORCH_VERSION)) {
    throw Refused("This workspace has PyTorch " + torch_version +
                      ", the device's node has " TORCH_VERSION ". Install PyTorch " + minor_version(TORCH_VERSION) +
                      " in the workspace, or choose another image.",
                  "refused: torch " + torch_version);
  }
  const auto& own = ops::digest();
  if (!std::equal(own.begin(), own.end(), reinterpret_cast<const uint8_t*>(digest))) {
    throw Refused("The operators of this workspace's PyTorch " + torch_version + " differ from those of the device's " +
                      "node (" TORCH_VERSION "). Ask an administrator to install the same builds of PyTorch and " +
                      "elara-remoting on both.",
                  "refused: other operators");
  }
  return wish;
}

}  // namespace elara::server
