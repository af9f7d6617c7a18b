// Contents on their way between the sessions of one client on different devices, without going by way of the client.
//
// A device server opens no connection: the node agent makes one for each pair that the client names, and passes its
// ends to both. A transfer is one message on it: u64 number, u64 bytes, u32 length of an error, then the error or the
// bytes.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "net/stream.h"

namespace elara::server {

class Peers {
 public:
  // Sends the next piece of a transfer, or waits for it; `nullptr` throws it away.
  using Send = std::function<void(const char* from, uint64_t bytes)>;
  using Receive = std::function<void(char* to, uint64_t bytes)>;

  // Any thread; a later connection with the same device takes the place of the first.
  void add(uint32_t ordinal, std::shared_ptr<net::Stream> connection);

  // Both wait for the other device to get there: the client sends both halves of a transfer in one order for all of its
  // devices, so that the earliest can always go on. Both throw WorkError.
  // `contents` is called once, with what it shall do with all the bytes, piece by piece.
  void push(uint32_t ordinal, uint64_t transfer, uint64_t bytes, const std::function<void(const Send&)>& contents);
  // In the place of contents that do not exist: without it the other device would wait for ever.
  void push_error(uint32_t ordinal, uint64_t transfer, const std::string& sentence);
  void pull(uint32_t ordinal, uint64_t transfer, uint64_t bytes, const std::function<void(const Receive&)>& contents);

 private:
  std::shared_ptr<net::Stream> connection(uint32_t ordinal);

  std::mutex mutex_;
  std::condition_variable arrived_;
  std::map<uint32_t, std::shared_ptr<net::Stream>> connections_;
};

}  // namespace elara::server
