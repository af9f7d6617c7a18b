#include "server/link.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstring>
#include <string_view>
#include <utility>

#include "server/handshake.h"
#include "server/server.h"

namespace elara::server {

namespace {

// A connection that continues a session has to say so within this time.
constexpr std::chrono::seconds kResumeTime{5};

constexpr std::string_view kPeer = "peer ";
constexpr std::string_view kLink = "link ";

// The number at the end of a packet such as "peer 3".
std::optional<uint32_t> number_after(std::string_view what, std::string_view word) {
  if (!what.starts_with(word)) return std::nullopt;
  uint32_t number = 0;
  const char* end = what.data() + what.size();
  const bool whole = std::from_chars(what.data() + word.size(), end, number).ptr == end;
  return whole && number < wire::kMaxDevices ? std::optional(number) : std::nullopt;
}

void signal_event(int event) noexcept {
  const uint64_t one = 1;
  while (::write(event, &one, sizeof one) < 0 && errno == EINTR) {
  }
}

void clear_event(int event) noexcept {
  uint64_t count = 0;
  while (::read(event, &count, sizeof count) < 0 && errno == EINTR) {
  }
}

std::string format_seconds(std::chrono::milliseconds time) {
  return std::to_string((time.count() + 999) / 1000) + " s";
}

}  // namespace

Link::Link(std::shared_ptr<net::Stream> first)
    : Stream(-1, "the client"), channel_(std::move(first), /*resumable=*/true, 0, 0) {}

Link::~Link() {
  if (caretaker_.joinable()) {
    signal_event(stop_);
    caretaker_.join();
  }
  if (wake_ >= 0) ::close(wake_);
  if (stop_ >= 0) ::close(stop_);
}

void Link::take_connections(std::chrono::milliseconds grace, const ServeOptions& options, OpenStream open,
                            Peers& peers) {
  wake_ = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  stop_ = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (wake_ < 0 || stop_ < 0) give_up(std::strerror(errno));
  options_ = &options;
  open_ = open;
  peers_ = &peers;
  {
    std::lock_guard lock(mutex_);
    grace_ = grace;
  }
  caretaker_ = std::thread([this] { take_care(); });
}

void Link::give_up(const std::string& why) { throw net::ConnectionLost(why); }

// ---- reading and writing

size_t Link::read_some(void* into, size_t most) {
  if (most == 0) return 0;
  Lock lock(mutex_);
  for (;;) {
    const size_t got = channel_.receive_some(into, most);
    if (got != 0) {
      if (channel_.received() - acknowledged_ >= wire::kAckEvery) put_ack();
      return got;
    }
    if (channel_.connected()) {
      channel_.send_some();
      wait(lock, channel_.unsent() != 0 ? POLLIN | POLLOUT : POLLIN);
    } else {
      wait_for_client(lock);
    }
  }
}

void Link::write_all(std::span<const iovec> pieces) {
  Lock lock(mutex_);
  if (grace_.count() == 0) {
    // Nothing is kept, so no more is taken than what the client is about to take.
    if (!channel_.connected()) give_up(channel_.loss());
    (void)channel_.acknowledge(channel_.sent());
  } else if (channel_.held() > wire::kMaxUnacknowledged && !std::exchange(overrun_, true)) {
    // Only the sentence that ends the session still goes out after this.
    throw wire::ProtocolError("more than " + std::to_string(wire::kMaxUnacknowledged) +
                              " bytes of answers were not acknowledged");
  }
  for (const iovec& piece : pieces) channel_.append(piece.iov_base, piece.iov_len);
  for (;;) {
    channel_.send_some();
    if (grace_.count() == 0) {
      if (!channel_.connected()) give_up(channel_.loss());
      (void)channel_.acknowledge(channel_.sent());
    }
    // Without a connection it stays in the buffer, and the next read waits for the client.
    if (!channel_.connected() || channel_.unsent() == 0) return;
    wait(lock, POLLOUT);
  }
}

size_t Link::try_read(void* into, size_t most) {
  Lock lock(mutex_);
  return channel_.receive_some(into, most);
}

size_t Link::try_write(std::span<const iovec> pieces) {
  write_all(pieces);
  size_t bytes = 0;
  for (const iovec& piece : pieces) bytes += piece.iov_len;
  return bytes;
}

void Link::acknowledged(uint64_t position) {
  Lock lock(mutex_);
  if (!channel_.acknowledge(position)) {
    throw wire::ProtocolError("byte " + std::to_string(position) + " was acknowledged and never sent");
  }
}

void Link::put_ack() {
  if (grace_.count() == 0) return;
  wire::Writer out;
  const size_t place = out.begin(wire::MessageType::kAck);
  out.put<uint64_t>(channel_.received());
  out.end(place);
  channel_.append(out.data(), out.size());
  acknowledged_ = channel_.received();
  channel_.send_some();
}

void Link::wait(Lock& lock, short events) {
  // Held, so that its descriptor stays what it is although another connection may take its place meanwhile.
  const std::shared_ptr<net::Stream> stream = channel_.stream();
  pollfd entries[2] = {{stream->fd(), events, 0}, {wake_, POLLIN, 0}};
  const int milliseconds = milliseconds_left();
  lock.unlock();
  const int ready = ::poll(entries, wake_ >= 0 ? 2 : 1, milliseconds);
  const int error = errno;
  lock.lock();
  if (ready < 0 && error != EINTR) fail_errno(error);
  if (entries[1].revents != 0) clear_event(wake_);
  if (client_ended_) give_up("the client's process has ended");
}

void Link::wait_for_client(Lock& lock) {
  if (grace_.count() == 0) give_up(channel_.loss());
  const auto until = channel_.lost_at() + grace_;
  const bool back = changed_.wait_until(lock, until, [this] { return channel_.connected() || client_ended_; });
  if (client_ended_) give_up("the client's process has ended");
  if (!back) give_up(channel_.loss() + " The client did not come back within " + format_seconds(grace_));
}

// ---- the caretaker

void Link::take_care() {
  // Without a grace nobody counts the signs of life.
  const auto heartbeat = grace_.count() == 0 ? -1 : static_cast<int>(wire::heartbeat_milliseconds(grace_.count()));
  for (;;) {
    pollfd entries[3] = {{stop_, POLLIN, 0}, {options_->control_fd, POLLIN, 0}, {options_->client_pidfd, POLLIN, 0}};
    const int ready = ::poll(entries, options_->client_pidfd >= 0 ? 3 : 2, heartbeat);
    if (ready < 0 && errno != EINTR) return;
    if (entries[0].revents != 0) return;
    if (entries[2].revents != 0) {
      // Its memory is wanted elsewhere: a process that has ended does not come back.
      {
        Lock lock(mutex_);
        client_ended_ = true;
      }
      changed_.notify_all();
      signal_event(wake_);
      return;
    }
    if ((entries[1].revents & POLLIN) != 0) {
      take_connection();
    } else if (entries[1].revents != 0) {
      return;  // the agent is gone
    }
    if (ready == 0) {
      Lock lock(mutex_);
      // Where something is on its way already, this would only queue behind it.
      if (channel_.connected() && channel_.unsent() == 0) put_ack();
    }
  }
}

void Link::take_connection() {
  char text[64];
  char room[CMSG_SPACE(sizeof(int))];
  iovec piece{text, sizeof text};
  msghdr message{};
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  message.msg_control = room;
  message.msg_controllen = sizeof room;
  const ssize_t got = ::recvmsg(options_->control_fd, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
  if (got <= 0) return;
  int fd = -1;
  const cmsghdr* part = CMSG_FIRSTHDR(&message);
  if (part != nullptr && part->cmsg_level == SOL_SOCKET && part->cmsg_type == SCM_RIGHTS) {
    std::memcpy(&fd, CMSG_DATA(part), sizeof fd);
  }
  if (fd < 0) return;
  const std::string_view what(text, static_cast<size_t>(got));
  try {
    const bool resumes = grace_.count() != 0;
    if (resumes && (what == "resume tcp" || what == "resume local")) {
      (void)admit(fd, what == "resume tcp");
    } else if (what.starts_with(kPeer)) {
      auto connection = std::make_shared<net::PlainStream>(fd, "the other device");
      if (const auto ordinal = number_after(what, kPeer)) peers_->add(*ordinal, std::move(connection));
    } else if (const auto ordinal = number_after(what, kLink)) {
      peers_->offer(*ordinal, fd);
    } else {
      ::close(fd);
    }
  } catch (const std::exception&) {
    // Whoever that was, the session itself goes on as before.
  }
}

bool Link::admit(int fd, bool tls) {
  const auto deadline = net::Clock::now() + kResumeTime;
  std::shared_ptr<net::Stream> stream = open_(fd, tls, *options_, deadline);
  stream->set_deadline(deadline);
  const auto told = check_resume(*stream, options_->secret);
  if (!told) return false;
  const uint64_t peer_received = *told;
  {
    Lock lock(mutex_);
    wire::Writer out;
    if (!channel_.can_resume(peer_received)) {
      const size_t fatal = out.begin(wire::MessageType::kFatal);
      out.str("The session cannot go on from where the client says it is.");
      out.end(fatal);
      stream->write_all(out.data(), out.size());
      return false;
    }
    const size_t place = out.begin(wire::MessageType::kReply);
    out.put<uint64_t>(channel_.received());
    out.end(place);
    stream->write_all(out.data(), out.size());
    stream->set_deadline(std::nullopt);
    channel_.resume(std::move(stream), peer_received);
    acknowledged_ = channel_.received();
    channel_.send_some();
  }
  changed_.notify_all();
  signal_event(wake_);
  return true;
}

}  // namespace elara::server
