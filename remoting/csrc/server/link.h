// The session's byte stream as the rest of the server sees it: one that goes on when its connection was lost and the
// client came back in time.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "net/channel.h"
#include "net/stream.h"
#include "server/peers.h"
#include "wire/codec.h"

namespace elara::server {

// Makes a stream of a connection that the node agent passed on; throws net::ConnectionLost.
using OpenStream = std::unique_ptr<net::Stream> (*)(int fd, bool tls, const struct ServeOptions& options,
                                                    net::Clock::time_point deadline);

class Link final : public net::Stream {
 public:
  explicit Link(std::shared_ptr<net::Stream> first);
  ~Link() override;

  // From now on lost connections are waited for, `grace` long each time (0: not at all), and those to other devices go
  // to `peers`. Both references must outlive the link.
  void take_connections(std::chrono::milliseconds grace, const struct ServeOptions& options, OpenStream open,
                        Peers& peers);

  // Both throw net::ConnectionLost once the client is given up.
  size_t read_some(void* into, size_t most) override;
  void write_all(std::span<const iovec> pieces) override;  // whole messages only
  size_t try_read(void* into, size_t most) override;
  size_t try_write(std::span<const iovec> pieces) override;
  using Stream::write_all;
  // Throws wire::ProtocolError on a position that cannot be.
  void acknowledged(uint64_t position) override;

 private:
  using Lock = std::unique_lock<std::mutex>;

  void wait(Lock& lock, short events);
  void wait_for_client(Lock& lock);
  void put_ack();
  // The caretaker's thread: new connections, signs of life, the client's end.
  void take_care();
  void take_connection();
  bool admit(int fd, bool tls);
  [[noreturn]] void give_up(const std::string& why);

  std::mutex mutex_;
  net::Channel channel_;
  std::condition_variable changed_;
  std::chrono::milliseconds grace_{0};
  const struct ServeOptions* options_ = nullptr;
  OpenStream open_ = nullptr;
  Peers* peers_ = nullptr;
  uint64_t acknowledged_ = 0;  // of what was received, told to the client
  bool client_ended_ = false;
  bool overrun_ = false;  // the client acknowledges too little
  int wake_ = -1;         // an eventfd: the reader shall look again
  int stop_ = -1;         // an eventfd: the caretaker shall end
  std::thread caretaker_;
};

}  // namespace elara::server
