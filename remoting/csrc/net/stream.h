// Byte streams between a remoting client and a device server: plain on one host, TLS 1.3 between hosts.
//
// A stream may be read by one thread while another writes. Neither side is safe for two threads at once.
#pragma once

#include <sys/uio.h>

#include <array>
#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>

struct ssl_st;
struct ssl_ctx_st;

namespace elara::net {

// The other side is gone, or cannot be reached. The text is a sentence for the user.
class ConnectionLost : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Nobody listens on the node's local socket: the node agent, and with it every device server, has ended.
class NodeGone : public ConnectionLost {
 public:
  using ConnectionLost::ConnectionLost;
};

// The node answered with a refusal; the text is the node's own sentence.
class ConnectionRefused : public ConnectionLost {
 public:
  using ConnectionLost::ConnectionLost;
};

using Clock = std::chrono::steady_clock;

class Stream {
 public:
  virtual ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  // Reads at least one byte and at most `most`. Throws ConnectionLost at the end of the stream.
  virtual size_t read_some(void* into, size_t most) = 0;
  // Whether bytes were taken from the socket and not handed out yet, which poll() on fd() does not see.
  virtual bool buffered() { return false; }
  // Writes all the pieces; the array is not changed.
  virtual void write_all(std::span<const iovec> pieces) = 0;
  // What can be done at once: 0 when that is nothing. A stream is used either by these two or by those above.
  // A stream of which neither ever waits needs no own.
  virtual size_t try_read(void* into, size_t most) { return read_some(into, most); }
  virtual size_t try_write(std::span<const iovec> pieces) {
    write_all(pieces);
    size_t bytes = 0;
    for (const iovec& piece : pieces) bytes += piece.iov_len;
    return bytes;
  }
  // The other side has received so many bytes of this stream. Only one that can be resumed cares.
  virtual void acknowledged(uint64_t) {}

  void read_exact(void* into, size_t count);
  void write_all(const void* data, size_t count);

  // Reads and writes that are not through by then throw ConnectionLost; nullopt waits for ever.
  void set_deadline(std::optional<Clock::time_point> deadline) { deadline_ = deadline; }
  // Wakes a thread that waits in a read or write; both fail from then on. May be called from any thread.
  void shutdown() noexcept;
  int fd() const { return fd_; }
  const std::string& peer() const { return peer_; }

 protected:
  // Owns `fd`. `peer` names the other side in error sentences, such as "the device server".
  Stream(int fd, std::string peer);

  // Waits until the socket is ready for `events` (of poll). Throws ConnectionLost past the deadline.
  void wait_for(short events);
  [[noreturn]] void fail(std::string_view why) const;
  [[noreturn]] void fail_errno(int error) const;
  bool has_deadline() const { return deadline_.has_value(); }
  // For poll: -1 without a deadline. Throws ConnectionLost past it.
  int milliseconds_left() const;

  int fd_;
  std::string peer_;

 private:
  std::optional<Clock::time_point> deadline_;
};

// A connected socket as it is.
class PlainStream final : public Stream {
 public:
  // `expect_refusal`: the first bytes that arrive may be a node's refusal (docs/contracts.md, 4), which is then thrown
  // as ConnectionRefused.
  PlainStream(int fd, std::string peer, bool expect_refusal = false);

  size_t read_some(void* into, size_t most) override;
  void write_all(std::span<const iovec> pieces) override;
  size_t try_read(void* into, size_t most) override;
  size_t try_write(std::span<const iovec> pieces) override;
  using Stream::write_all;

 private:
  void throw_if_refused();

  bool expect_refusal_;
};

// TLS 1.3 over a connected socket. OpenSSL allows no two threads in one session, so a lock is held while it computes,
// never while it waits.
class TlsStream final : public Stream {
 public:
  // The handshake as server with a certificate chain and key in PEM; throws ConnectionLost.
  static std::unique_ptr<TlsStream> accept(int fd, std::string peer, std::string_view certificate_pem,
                                           std::string_view key_pem, Clock::time_point deadline);
  // The handshake as client. The server's certificate must come from `ca_pem`, the only authority that counts; its
  // name is not looked at, because that authority is the lease's own and signs nothing else.
  static std::unique_ptr<TlsStream> connect(int fd, std::string peer, std::string_view ca_pem,
                                            Clock::time_point deadline);
  ~TlsStream() override;

  size_t read_some(void* into, size_t most) override;
  bool buffered() override;
  void write_all(std::span<const iovec> pieces) override;
  size_t try_read(void* into, size_t most) override;
  size_t try_write(std::span<const iovec> pieces) override;
  using Stream::write_all;

 private:
  TlsStream(int fd, std::string peer, ssl_ctx_st* context);
  void handshake(bool as_server, Clock::time_point deadline);
  void write_piece(const char* data, size_t count);
  bool would_block(int result) const;
  // Waits for what OpenSSL asked for after `result`, or throws. `lock` is released meanwhile.
  void settle(int result, std::unique_lock<std::mutex>& lock);

  std::mutex lock_;
  ssl_ctx_st* context_;
  ssl_st* session_;
};

// The 64 bytes in clear that tell a node which session a connection is for.
struct Preamble {
  enum class Kind : uint8_t { kCommand = 0, kBulk = 1, kPeer = 2 };
  static constexpr size_t kBytes = 64;
  static constexpr uint16_t kVersion = 1;

  Kind kind = Kind::kCommand;
  uint8_t ordinal = 0;
  bool resume = false;       // of a session whose connection was lost
  uint8_t peer_ordinal = 0;  // kPeer: the device to connect `ordinal` with
  std::array<uint8_t, 16> lease{};
  std::array<uint8_t, 16> session{};

  std::array<char, kBytes> encode() const;
};

// Where a device's node listens. `local` is tried first when the path exists; `tcp` is "host:port" or "[v6]:port".
struct Endpoint {
  std::string local;
  std::string tcp;
  std::string ca_pem;  // needed for `tcp`
};

// Connects, sends the preamble and, on TCP, does the TLS handshake, all within `timeout`. Throws ConnectionLost with a
// sentence that names the address, NodeGone where nobody listens on the local socket, and ConnectionRefused when the
// node answers with a refusal (on a local socket that comes with the first read).
std::unique_ptr<Stream> connect_stream(const Endpoint& endpoint, const Preamble& preamble,
                                       std::chrono::milliseconds timeout);

// Sends the preamble alone and returns the node's answer in clear, up to a few bytes. Throws as connect_stream does.
std::string ask_node(const Endpoint& endpoint, const Preamble& preamble, std::chrono::milliseconds timeout);

}  // namespace elara::net
