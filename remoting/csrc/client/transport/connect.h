// Reaching a device's node: local socket first, else TLS over TCP; then the preamble (docs/contracts.md, 4).
#pragma once

#include <chrono>
#include <memory>

#include "client/attach/attachment.h"
#include "net/stream.h"

namespace elara::client {

// `resume`: for the session that this process has there already. Raises std::runtime_error with a sentence.
std::shared_ptr<net::Stream> connect_device(const Attachment& attachment, const AttachedDevice& device, bool resume,
                                            std::chrono::milliseconds timeout);

// Has the node connect this process's sessions on two of its devices with each other. False when it cannot: the devices
// are on different nodes, or the node is older than this.
bool connect_peers(const Attachment& attachment, const AttachedDevice& first, const AttachedDevice& second);

}  // namespace elara::client
