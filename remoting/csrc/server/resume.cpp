#include <openssl/crypto.h>

#include "server/handshake.h"
#include "wire/codec.h"

namespace elara::server {

std::optional<uint64_t> check_resume(net::Stream& stream, const std::string& secret) {
  constexpr uint32_t kLength = wire::kSecretBytes + 8;
  char front[wire::kHeaderBytes];
  stream.read_exact(front, sizeof front);
  const wire::Header header = wire::decode_header(front);
  if (header.type != wire::MessageType::kResume || header.length != kLength) return std::nullopt;
  char payload[kLength];
  stream.read_exact(payload, sizeof payload);
  wire::Reader in(payload, sizeof payload);
  if (CRYPTO_memcmp(in.bytes(wire::kSecretBytes), secret.data(), wire::kSecretBytes) != 0) return std::nullopt;
  return in.get<uint64_t>();
}

}  // namespace elara::server
