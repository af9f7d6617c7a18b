// Reaching a device's node: local socket first, else TLS over TCP; then the preamble (docs/contracts.md, 4).
#pragma once

#include <memory>

#include "client/attach/attachment.h"
#include "net/stream.h"

namespace elara::client {

// Raises std::runtime_error with a sentence.
std::shared_ptr<net::Stream> connect_device(const Attachment& attachment, const AttachedDevice& device);

}  // namespace elara::client
