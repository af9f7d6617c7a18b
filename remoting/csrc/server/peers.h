// Contents on their way between the sessions of one client on different devices, without going by way of the client.
//
// A device server opens no connection: the node agent makes one for each pair that the client names, and passes its
// ends to both; between two nodes their agents do so, and whoever could reach a node's port could have made it. So that
// one is TLS, and counts once its other end has shown what the client told both servers (wire: kIntroduce).
//
// A transfer is one message: u64 number, u64 bytes, u32 length of an error, then the error or the bytes.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "net/stream.h"
#include "wire/protocol.h"

namespace elara::server {

struct Introduction {
  std::string token;      // wire::kTokenBytes
  std::string authority;  // PEM; empty: the other side speaks first
};

class Peers {
 public:
  // With what this server answers those of other nodes, in PEM.
  Peers(std::string certificate, std::string key);
  ~Peers();

  // Sends the next piece of a transfer, or waits for it; `nullptr` throws it away.
  using Send = std::function<void(const char* from, uint64_t bytes)>;
  using Receive = std::function<void(char* to, uint64_t bytes)>;

  // Any thread; a later connection with the same device takes the place of the first.
  void add(uint32_t ordinal, std::shared_ptr<net::Stream> connection);
  // A connected socket that may lead to the server of a device on another node; it is proven at the first transfer.
  void offer(uint32_t ordinal, int fd);
  void introduce(uint32_t ordinal, Introduction introduction);

  // Both wait for the other device to get there: the client sends both halves of a transfer in one order for all of its
  // devices, so that the earliest can always go on. Both throw WorkError.
  // `contents` is called once, with what it shall do with all the bytes, piece by piece.
  void push(uint32_t ordinal, uint64_t transfer, uint64_t bytes, const std::function<void(const Send&)>& contents);
  // In the place of contents that do not exist: without it the other device would wait for ever.
  void push_error(uint32_t ordinal, uint64_t transfer, const std::string& sentence);
  void pull(uint32_t ordinal, uint64_t transfer, uint64_t bytes, const std::function<void(const Receive&)>& contents);

 private:
  std::shared_ptr<net::Stream> connection(uint32_t ordinal);
  std::shared_ptr<net::Stream> prove(uint32_t ordinal, int fd, const Introduction& introduction,
                                     net::Clock::time_point deadline) const;

  const std::string certificate_;
  const std::string key_;
  std::mutex mutex_;
  std::condition_variable arrived_;
  std::map<uint32_t, std::shared_ptr<net::Stream>> connections_;
  std::map<uint32_t, Introduction> introductions_;
  std::map<uint32_t, std::deque<int>> offered_;
};

}  // namespace elara::server
