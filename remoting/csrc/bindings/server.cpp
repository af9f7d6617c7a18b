// The Python module `_server`: starts a device server on a connected socket.
#include "server/server.h"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <string>
#include <vector>

#include "ops/op_lists.h"

namespace py = pybind11;

namespace {

// torch's caching allocator has the limit, but only its Python interface reaches it without CUDA's headers.
void limit_cuda_memory(int index, uint64_t bytes) {
  const py::gil_scoped_acquire gil;
  const auto cuda = py::module_::import("torch.cuda");
  const auto total = cuda.attr("get_device_properties")(index).attr("total_memory").cast<double>();
  cuda.attr("set_per_process_memory_fraction")(std::min(1.0, static_cast<double>(bytes) / total), index);
}

std::string serve(int fd, const py::object& tls_cert, const py::object& tls_key, const py::bytes& secret, int ledger_fd,
                  int slot, const std::string& device, const std::string& model, uint64_t memory_bytes, bool emulated,
                  int torch_threads, const std::vector<std::string>& libraries, double grace_seconds, int control_fd,
                  int client_pidfd, const std::string& peer_cert, const std::string& peer_key) {
  elara::server::ServeOptions options;
  options.fd = fd;
  if (!tls_cert.is_none()) options.tls_cert = py::cast<std::string>(tls_cert);
  if (!tls_key.is_none()) options.tls_key = py::cast<std::string>(tls_key);
  options.secret = std::string(secret);
  options.ledger_fd = ledger_fd;
  options.slot = slot;
  options.device = device;
  options.model = model;
  options.memory_bytes = memory_bytes;
  options.emulated = emulated;
  options.torch_threads = torch_threads;
  options.libraries = libraries;
  options.limit_memory = &limit_cuda_memory;
  options.grace_ms = static_cast<int64_t>(grace_seconds * 1000);
  options.control_fd = control_fd;
  options.client_pidfd = client_pidfd;
  options.peer_cert = peer_cert;
  options.peer_key = peer_key;
  const py::gil_scoped_release no_gil;
  return elara::server::serve(options);
}

}  // namespace

PYBIND11_MODULE(_server, module) {
  module.doc() = "The device server of Elara: executes one session's operators.";
  module.def("serve", &serve, py::arg("fd"), py::kw_only(), py::arg("tls_cert") = py::none(),
             py::arg("tls_key") = py::none(), py::arg("secret"), py::arg("ledger_fd") = -1, py::arg("slot") = 0,
             py::arg("device") = "cpu", py::arg("model"), py::arg("memory_bytes"), py::arg("emulated"),
             py::arg("torch_threads") = 0, py::arg("libraries") = std::vector<std::string>(),
             py::arg("grace_seconds") = 0.0, py::arg("control_fd") = -1, py::arg("client_pidfd") = -1,
             py::arg("peer_cert") = "", py::arg("peer_key") = "",
             R"(Serve one session on a connected socket, after its preamble, and return why it ended.

Takes over `fd` and blocks until the client leaves; other Python threads run meanwhile. `tls_cert` and `tls_key` are PEM
(str or bytes), None for a local socket; `secret` is the lease's 32 bytes; `ledger_fd` stays the caller's, -1 for none;
`device` is "cpu" or "cuda:N"; `memory_bytes` the lease's cap on it; `torch_threads` 0 leaves torch's choice;
`libraries` are namespaces of other libraries' operators (["torchvision"]) that clients may use where they are loaded.
`peer_cert` and `peer_key` (PEM) are for connections from the client's device servers on other nodes.
A lost connection is waited for `grace_seconds`; the next one comes through `control_fd` (a seqpacket socket, the packet
"resume local" or "resume tcp", with the descriptor). The session ends with the process of `client_pidfd`.
A process serves one session: allocator, context flags and default generator are set for good.

Raises:
    ValueError: the secret is not 32 bytes long.
    RuntimeError: the ledger is not one.)");
  module.def(
      "operator_digest",
      [] {
        const auto& digest = elara::ops::digest();
        return py::bytes(reinterpret_cast<const char*>(digest.data()), digest.size());
      },
      "SHA-256 over the operators and schemas that client and server must agree on, 32 bytes.");
}
