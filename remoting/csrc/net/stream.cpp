#include "net/stream.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

namespace elara::net {

namespace {

constexpr std::string_view kRefusalMagic = "ELARAERR";

void set_blocking(int fd, bool blocking) {
  const int flags = ::fcntl(fd, F_GETFL);
  if (flags >= 0) ::fcntl(fd, F_SETFL, blocking ? flags & ~O_NONBLOCK : flags | O_NONBLOCK);
}

}  // namespace

Stream::Stream(int fd, std::string peer) : fd_(fd), peer_(std::move(peer)) {
  int domain = 0;
  socklen_t size = sizeof domain;
  if (::getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) == 0 && (domain == AF_INET || domain == AF_INET6)) {
    const int on = 1;
    ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    // A peer whose machine vanished answers nothing: notice within a minute instead of never.
    ::setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    const int idle = 15, interval = 10, count = 4;
    ::setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
    ::setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof interval);
    ::setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof count);
    const unsigned unacknowledged = 60'000;
    ::setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &unacknowledged, sizeof unacknowledged);
  } else {
    const int bytes = 4 << 20;  // The kernel takes what its limits allow of it.
    ::setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
    ::setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes);
  }
}

Stream::~Stream() { ::close(fd_); }

void Stream::shutdown() noexcept { ::shutdown(fd_, SHUT_RDWR); }

void Stream::fail(std::string_view why) const {
  throw ConnectionLost("The connection to " + peer_ + " was lost: " + std::string(why) + ".");
}

void Stream::fail_errno(int error) const {
  if (error == EPIPE || error == ECONNRESET) fail("it was closed at the other end");
  fail(std::strerror(error));
}

int Stream::milliseconds_left() const {
  if (!deadline_) return -1;
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(*deadline_ - Clock::now()).count();
  if (left <= 0) fail("it did not answer in time");
  return static_cast<int>(left);
}

void Stream::wait_for(short events) {
  for (;;) {
    pollfd entry{fd_, events, 0};
    const int ready = ::poll(&entry, 1, milliseconds_left());
    if (ready > 0) return;
    if (ready < 0 && errno != EINTR) fail_errno(errno);
  }
}

void Stream::read_exact(void* into, size_t count) {
  auto* at = static_cast<char*>(into);
  while (count != 0) {
    const size_t got = read_some(at, count);
    at += got;
    count -= got;
  }
}

void Stream::write_all(const void* data, size_t count) {
  const iovec piece{const_cast<void*>(data), count};
  write_all(std::span(&piece, 1));
}

PlainStream::PlainStream(int fd, std::string peer, bool expect_refusal)
    : Stream(fd, std::move(peer)), expect_refusal_(expect_refusal) {
  set_blocking(fd, true);
}

size_t PlainStream::read_some(void* into, size_t most) {
  if (most == 0) return 0;
  for (;;) {
    if (has_deadline()) wait_for(POLLIN);
    const ssize_t got = ::recv(fd_, into, most, 0);
    if (got == 0) fail("it was closed at the other end");
    if (got > 0) {
      if (expect_refusal_ && *static_cast<const char*>(into) == kRefusalMagic[0]) {
        // No message of the protocol begins with this letter. Collect the sentence to the end of the stream.
        std::string text(static_cast<const char*>(into), static_cast<size_t>(got));
        char more[512];
        ssize_t next = 0;
        while (text.size() < 66'000 && (next = ::recv(fd_, more, sizeof more, 0)) > 0) {
          text.append(more, static_cast<size_t>(next));
        }
        constexpr size_t kFront = kRefusalMagic.size() + 2;
        if (text.starts_with(kRefusalMagic) && text.size() > kFront) throw ConnectionRefused(text.substr(kFront));
        fail("it does not speak this protocol");
      }
      expect_refusal_ = false;
      return static_cast<size_t>(got);
    }
    if (errno != EINTR) fail_errno(errno);
  }
}

void PlainStream::throw_if_refused() {
  if (!expect_refusal_) return;
  char first = 0;
  (void)read_some(&first, 1);
}

void PlainStream::write_all(std::span<const iovec> pieces) {
  // sendmsg takes at most IOV_MAX pieces and may stop in the midst of one.
  constexpr size_t kMost = 64;
  size_t index = 0;
  size_t skip = 0;
  while (index < pieces.size()) {
    iovec window[kMost];
    size_t count = 0;
    for (; count < kMost && index + count < pieces.size(); ++count) window[count] = pieces[index + count];
    window[0].iov_base = static_cast<char*>(window[0].iov_base) + skip;
    window[0].iov_len -= skip;
    if (has_deadline()) wait_for(POLLOUT);
    msghdr message{};
    message.msg_iov = window;
    message.msg_iovlen = count;
    const ssize_t sent = ::sendmsg(fd_, &message, MSG_NOSIGNAL | (has_deadline() ? MSG_DONTWAIT : 0));
    if (sent < 0) {
      if (errno == EINTR || errno == EAGAIN) continue;
      const int error = errno;
      // A node that refuses closes at once: its sentence is worth more than "closed".
      throw_if_refused();
      fail_errno(error);
    }
    auto left = static_cast<size_t>(sent);
    for (size_t i = 0; i < count; ++i) {
      if (left < window[i].iov_len) {
        skip = (i == 0 ? skip : 0) + left;
        break;
      }
      left -= window[i].iov_len;
      skip = 0;
      ++index;
    }
  }
}

size_t PlainStream::try_read(void* into, size_t most) {
  for (;;) {
    const ssize_t got = ::recv(fd_, into, most, MSG_DONTWAIT);
    if (got > 0) return static_cast<size_t>(got);
    if (got == 0) fail("it was closed at the other end");
    if (errno == EAGAIN || errno == EWOULDBLOCK) return 0;
    if (errno != EINTR) fail_errno(errno);
  }
}

size_t PlainStream::try_write(std::span<const iovec> pieces) {
  msghdr message{};
  message.msg_iov = const_cast<iovec*>(pieces.data());
  message.msg_iovlen = pieces.size();
  for (;;) {
    const ssize_t sent = ::sendmsg(fd_, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent >= 0) return static_cast<size_t>(sent);
    if (errno == EAGAIN || errno == EWOULDBLOCK) return 0;
    if (errno != EINTR) fail_errno(errno);
  }
}

std::array<char, Preamble::kBytes> Preamble::encode() const {
  std::array<char, kBytes> out{};
  std::memcpy(out.data(), "ELARA\0", 6);
  std::memcpy(out.data() + 6, &kVersion, 2);
  out[8] = static_cast<char>(kind);
  out[9] = static_cast<char>(ordinal);
  out[10] = resume ? 1 : 0;
  out[11] = static_cast<char>(peer_ordinal);
  std::memcpy(out.data() + 16, lease.data(), lease.size());
  std::memcpy(out.data() + 32, session.data(), session.size());
  return out;
}

}  // namespace elara::net
