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

bool on_one_node(const AttachedDevice& first, const AttachedDevice& second);

// Has the node of `first` connect this process's sessions on two devices with each other, be they its own or one of
// another node. False when it cannot: the nodes do not reach each other, or do not know that they share a lease.
bool connect_peers(const Attachment& attachment, const AttachedDevice& first, const AttachedDevice& second);

// The PEM file that a device's certificate must come from.
std::string authority_of(const AttachedDevice& device);

}  // namespace elara::client
