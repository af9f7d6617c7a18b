// A session's connection: sends what is appended, hands answers to those who wait for them, and comes back after it was
// lost.
//
// No thread reads all the time: whoever waits for something reads for everybody until it has what it wanted (a
// hand-over between threads would cost more than the answer itself). The idle flusher looks after a link that nobody
// waits at.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "net/channel.h"
#include "wire/codec.h"

namespace elara::client {

// What a request waits for. Answers come in the order of the requests.
struct Answer {
  char* destination = nullptr;  // of a kRead; null: thrown away
  uint64_t wanted = 0;          // bytes of a kRead still to come; 0 for other requests
  bool done = false;
  wire::MessageType type = wire::MessageType::kReply;  // kReply, kData or kError
  std::string payload;                                 // of a kReply or kError
};

class Link {
 public:
  using Lock = std::unique_lock<std::mutex>;
  // Connects anew within a time; throws net::ConnectionLost.
  using Reconnect = std::function<std::shared_ptr<net::Stream>(std::chrono::milliseconds)>;

  struct Owner {
    Reconnect reconnect;
    std::function<void(const std::string&)> lost;  // with the reason, for good; must not wait for the link's lock
    std::function<bool()> dead;
    std::weak_ptr<void> self;  // what the link is a part of: held while a thread of the link's own runs
    std::string secret;
  };

  // Guards all of the link, and its owner's buffer.
  std::mutex& mutex() { return mutex_; }

  // The first connection, `sent` and `received` bytes after its begin. `grace`: 0 for one that cannot be resumed.
  void open(Owner owner, std::shared_ptr<net::Stream> stream, uint64_t sent, uint64_t received,
            std::chrono::milliseconds grace);
  // Takes a copy of whole messages and sends what goes at once. Does not wait.
  void put(const char* data, size_t bytes);
  void put(const char* head, size_t head_bytes, const void* data, size_t bytes);
  // Bytes that are kept until they are acknowledged, and of these what is not sent.
  size_t held() const { return channel_ ? channel_->held() : 0; }
  size_t unsent() const { return channel_ ? channel_->unsent() : 0; }
  bool connected() const { return channel_ && channel_->connected(); }
  // Data that was asked for and has not come.
  uint64_t owed() const { return owed_; }

  // The request just put expects this answer.
  void expect(std::shared_ptr<Answer> answer);
  // Until `done()`, or the session is dead. Throws, with the lock held, when the user interrupts.
  void wait(Lock& lock, const std::function<bool()>& done);
  // For the idle flusher: sends and reads what goes at once.
  void look_after();
  // The session is over: says so to the server, and closes once that is sent or `most` has passed.
  void leave(std::chrono::milliseconds most);
  void close();
  // In a forked child: no lock may be taken, nothing said; this process's copy of the descriptor goes.
  void forget_after_fork() noexcept;

 private:
  void receive();
  bool parse();
  void take_header(const wire::Header& header);
  void finish_message();
  void acknowledge_received();
  void come_back();
  void reconnect(std::chrono::steady_clock::time_point lost_at);
  void connection_changed();

  std::mutex mutex_;
  std::condition_variable changed_;
  int waiting_ = 0;       // threads at `changed_`
  bool polling_ = false;  // one thread waits at the socket
  bool reconnecting_ = false;
  std::atomic<int> descriptor_{-1};

  Owner owner_;
  std::chrono::milliseconds grace_{0};
  std::optional<net::Channel> channel_;
  uint64_t acknowledged_ = 0;

  std::deque<std::shared_ptr<Answer>> answers_;
  uint64_t owed_ = 0;

  // The message that is coming in.
  std::vector<char> input_;
  size_t begin_ = 0;
  size_t end_ = 0;
  std::optional<wire::Header> header_;
  uint32_t left_ = 0;  // of its payload
  std::string payload_;
};

}  // namespace elara::client
