#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "net/stream.h"

namespace elara::net {

namespace {

template <class Error = ConnectionLost>
[[noreturn]] void unreachable(const std::string& address, const std::string& why) {
  throw Error("The node at " + address + " cannot be reached: " + why +
              ". If it does not come back, detach and attach again to get another device.");
}

// Closes the socket unless it was handed on.
class Socket {
 public:
  explicit Socket(int fd) : fd_(fd) {}
  ~Socket() {
    if (fd_ >= 0) ::close(fd_);
  }
  Socket(Socket&& other) noexcept : fd_(other.release()) {}
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;
  int get() const { return fd_; }
  int release() { return std::exchange(fd_, -1); }

 private:
  int fd_;
};

// Returns 0 or an errno.
int connect_within(int fd, const sockaddr* address, socklen_t size, Clock::time_point deadline) {
  if (::connect(fd, address, size) == 0) return 0;
  if (errno != EINPROGRESS && errno != EINTR) return errno;
  for (;;) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now()).count();
    if (left <= 0) return ETIMEDOUT;
    pollfd entry{fd, POLLOUT, 0};
    const int ready = ::poll(&entry, 1, static_cast<int>(left));
    if (ready < 0 && errno != EINTR) return errno;
    if (ready > 0) break;
  }
  int error = 0;
  socklen_t length = sizeof error;
  ::getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length);
  return error;
}

std::unique_ptr<Stream> connect_local(const std::string& path, const Preamble& preamble, Clock::time_point deadline,
                                      bool expect_refusal = true) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) unreachable(path, "the socket's path is too long");
  std::memcpy(address.sun_path, path.data(), path.size());
  Socket socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (socket.get() < 0) unreachable(path, std::strerror(errno));
  const int error = connect_within(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof address, deadline);
  if (error == ECONNREFUSED || error == ENOENT) unreachable<NodeGone>(path, std::strerror(error));
  if (error != 0) unreachable(path, std::strerror(error));
  auto stream = std::make_unique<PlainStream>(socket.release(), "the device server", expect_refusal);
  stream->set_deadline(deadline);
  const auto head = preamble.encode();
  stream->write_all(head.data(), head.size());
  stream->set_deadline(std::nullopt);
  return stream;
}

// A connection on which the preamble has been sent.
Socket open_tcp(const Endpoint& endpoint, const Preamble& preamble, Clock::time_point deadline) {
  const std::string& text = endpoint.tcp;
  const size_t colon = text.rfind(':');
  if (colon == std::string::npos) unreachable(text, "the address has no port");
  std::string host = text.substr(0, colon);
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);

  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int looked_up = ::getaddrinfo(host.c_str(), text.c_str() + colon + 1, &hints, &found);
  if (looked_up != 0) unreachable(text, ::gai_strerror(looked_up));
  const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> addresses(found, &::freeaddrinfo);

  int error = EHOSTUNREACH;
  for (const addrinfo* entry = found; entry != nullptr; entry = entry->ai_next) {
    Socket socket(::socket(entry->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (socket.get() < 0) continue;
    error = connect_within(socket.get(), entry->ai_addr, entry->ai_addrlen, deadline);
    if (error != 0) continue;
    const auto head = preamble.encode();
    // A new socket's buffer takes 64 bytes at once.
    const ssize_t sent = ::send(socket.get(), head.data(), head.size(), MSG_NOSIGNAL);
    if (sent != static_cast<ssize_t>(head.size())) unreachable(text, "the connection was closed at once");
    return socket;
  }
  unreachable(text, std::strerror(error));
}

std::unique_ptr<Stream> connect_tcp(const Endpoint& endpoint, const Preamble& preamble, Clock::time_point deadline) {
  Socket socket = open_tcp(endpoint, preamble, deadline);
  return TlsStream::connect(socket.release(), "the device server at " + endpoint.tcp, endpoint.ca_pem, deadline);
}

}  // namespace

std::unique_ptr<Stream> connect_stream(const Endpoint& endpoint, const Preamble& preamble,
                                       std::chrono::milliseconds timeout) {
  const auto deadline = Clock::now() + timeout;
  if (!endpoint.local.empty() && ::access(endpoint.local.c_str(), F_OK) == 0) {
    return connect_local(endpoint.local, preamble, deadline);
  }
  if (!endpoint.tcp.empty()) return connect_tcp(endpoint, preamble, deadline);
  if (!endpoint.local.empty()) {
    unreachable<NodeGone>(endpoint.local, "there is no such socket on this machine");
  }
  throw ConnectionLost("The attachment names no address for the device. Detach and attach again.");
}

std::string ask_node(const Endpoint& endpoint, const Preamble& preamble, std::chrono::milliseconds timeout) {
  const auto deadline = Clock::now() + timeout;
  std::unique_ptr<Stream> stream;
  if (!endpoint.local.empty() && ::access(endpoint.local.c_str(), F_OK) == 0) {
    stream = connect_local(endpoint.local, preamble, deadline, /*expect_refusal=*/false);
  } else {
    stream = std::make_unique<PlainStream>(open_tcp(endpoint, preamble, deadline).release(), "the node");
  }
  stream->set_deadline(deadline);
  std::string answer(9, '\0');
  stream->read_exact(answer.data(), answer.size());
  return answer;
}

}  // namespace elara::net
