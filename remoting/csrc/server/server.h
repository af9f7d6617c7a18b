// A device server: one session of one client on one device, from the handshake to the end.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "wire/export.h"

namespace elara::server {

struct ServeOptions {
  int fd = -1;            // a connected socket after its preamble; the server closes it
  std::string tls_cert;   // PEM; with tls_key: TLS 1.3 as server. Empty: plain (a local socket)
  std::string tls_key;    // PEM
  std::string peer_cert;  // PEM; with peer_key: what other nodes' device servers of the same client are answered with
  std::string peer_key;   // PEM
  std::string secret;     // the lease's 32 bytes
  int ledger_fd = -1;     // the lease's ledger, or -1 for none; stays the caller's
  int slot = 0;           // of the ledger
  std::string device;     // "cpu" or "cuda:N"
  std::string model;      // as users see it: "NVIDIA H100 80GB HBM3", "emulated (CPU)"
  uint64_t memory_bytes = 0;  // the lease's cap on this device
  bool emulated = false;      // computes on the node's CPU in place of a GPU
  int torch_threads = 0;      // 0 leaves torch's own choice
  // Namespaces of operators of other libraries that clients may use: "torchvision". Of each, those operators that have
  // a kernel for the device.
  std::vector<std::string> libraries;
  // Keeps this process from taking more than so many bytes of CUDA device `index`, temporaries and caches included.
  std::function<void(int index, uint64_t bytes)> limit_memory;
  // How long a lost connection is waited for; 0: the session ends with it. The node agent passes the next one through
  // `control_fd`, a seqpacket socket: "resume local" or "resume tcp", with the descriptor; and "peer N" with one to the
  // client's session on its device N, or "link N" where that is on another node. Stays the caller's.
  int64_t grace_ms = 0;
  int control_fd = -1;
  int client_pidfd = -1;  // of the client's process when it is on this host: the session ends with it
};

// Serves until the client leaves, breaks the protocol or is lost; returns why, as a phrase for the log without secrets.
// Changes process-wide settings (CPU allocator, context flags, default generator): a process serves one session.
// Throws std::exception only on options that cannot work: a secret of another length, a ledger that is none.
ELARA_API std::string serve(const ServeOptions& options);

}  // namespace elara::server
