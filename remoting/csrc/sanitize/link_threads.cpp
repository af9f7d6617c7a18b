// Both ends of a session's byte stream under many threads, for ThreadSanitizer: threads that ask, upload and download
// at once, a flusher, a user who gives up waiting, and connections that are cut. No byte may be lost or come twice, and
// no two threads may touch the same memory without order. Nothing of torch is in here, so that all of it can be
// instrumented.
//
//   link_threads [rounds]     exit status 0, and a line that says what was done
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "client/transport/flusher.h"
#include "client/transport/interrupt.h"
#include "client/transport/link.h"
#include "net/stream.h"
#include "server/link.h"
#include "server/message_input.h"
#include "server/peers.h"
#include "server/server.h"

using namespace elara;
using namespace std::chrono_literals;

namespace {

constexpr int kThreads = 8;
constexpr size_t kWindow = 4 << 20;
constexpr uint32_t kPiece = 300'000;
constexpr auto kGrace = 10'000ms;
// As much as a test may take; what hangs is told with a stack of every thread.
constexpr unsigned kMostSeconds = 120;

struct Interrupted {};

void require(bool truth, const char* what) {
  if (truth) return;
  std::fprintf(stderr, "link_threads: %s\n", what);
  std::abort();
}

char pattern(uint64_t seed, uint64_t place) { return static_cast<char>(seed * 31 + place * 7 + place / 251); }

// ---- the device server's end: answers what a session would, and counts

// What each thread has uploaded, as the server saw it: pieces in order, none twice.
struct Received {
  std::array<uint64_t, kThreads> pieces{};
  bool goodbye = false;
};

void answer(net::Stream& stream, server::MessageInput& input, const wire::Header& header, Received& received) {
  wire::Reader in(input.bytes(header.length), header.length);
  wire::Writer out;
  switch (header.type) {
    case wire::MessageType::kWrite: {
      const auto thread = in.get<uint64_t>();
      const auto number = in.get<uint64_t>();
      require(thread < kThreads && received.pieces[thread] == number, "an upload was lost, or came twice");
      const auto bytes = in.rest();
      for (size_t i = 0; i < bytes.size(); i += 997) require(bytes[i] == pattern(number, i), "an upload has changed");
      received.pieces[thread]++;
      return;
    }
    case wire::MessageType::kSync: {
      const size_t place = out.begin(wire::MessageType::kReply);
      out.put(received.pieces[in.get<uint64_t>()]);
      out.end(place);
      break;
    }
    case wire::MessageType::kRead: {
      const auto seed = in.get<uint64_t>();
      const auto bytes = in.get<uint64_t>();
      const size_t place = out.begin(wire::MessageType::kData);
      char* to = out.grow(bytes);
      for (uint64_t i = 0; i < bytes; ++i) to[i] = pattern(seed, i);
      out.end(place);
      break;
    }
    case wire::MessageType::kAck:
      stream.acknowledged(in.get<uint64_t>());
      return;
    case wire::MessageType::kGoodbye:
      received.goodbye = true;
      return;
    default:
      require(false, "the server received what nobody sent");
  }
  stream.write_all(out.data(), out.size());
}

std::unique_ptr<net::Stream> open_stream(int fd, bool, const server::ServeOptions&, net::Clock::time_point) {
  return std::make_unique<net::PlainStream>(fd, "the client");
}

Received serve(int fd, int control) {
  server::ServeOptions options;
  options.secret = std::string(wire::kSecretBytes, 's');
  options.control_fd = control;
  Received received;
  server::Peers peers({}, {});
  server::Link stream(std::make_shared<net::PlainStream>(fd, "the client"));
  stream.take_connections(kGrace, options, &open_stream, peers);
  server::MessageInput input(stream);
  try {
    while (!received.goodbye) answer(stream, input, input.header(), received);
  } catch (const net::ConnectionLost&) {
    // The client left without a word.
  }
  return received;
}

// ---- the node between them

// Passes the client's new connections to the device server, and cuts them.
class Node {
 public:
  Node() { require(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, control_) == 0, "no socket pair"); }
  ~Node() {
    ::close(control_[0]);
    ::close(control_[1]);
    if (last_ >= 0) ::close(last_);
  }
  int control() const { return control_[1]; }

  // A connection: the server's end as a descriptor, the client's as a stream.
  std::shared_ptr<net::Stream> connect(int& server_end) {
    int ends[2];
    require(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0, "no socket pair");
    server_end = ends[1];
    std::lock_guard lock(mutex_);
    if (last_ >= 0) ::close(last_);
    last_ = ::dup(ends[1]);
    return std::make_shared<net::PlainStream>(ends[0], "the device server");
  }

  std::shared_ptr<net::Stream> reconnect() {
    if (gone_) throw net::NodeGone("The node is gone.");
    int end = -1;
    auto stream = connect(end);
    char text[] = "resume local";
    iovec piece{text, sizeof text - 1};
    char room[CMSG_SPACE(sizeof(int))] = {};
    msghdr message{};
    message.msg_iov = &piece;
    message.msg_iovlen = 1;
    message.msg_control = room;
    message.msg_controllen = sizeof room;
    cmsghdr* part = CMSG_FIRSTHDR(&message);
    part->cmsg_level = SOL_SOCKET;
    part->cmsg_type = SCM_RIGHTS;
    part->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(part), &end, sizeof end);
    const ssize_t sent = ::sendmsg(control_[0], &message, MSG_NOSIGNAL);
    ::close(end);
    if (sent < 0) throw net::NodeGone("The device server is gone.");
    return stream;
  }

  void cut() {
    std::lock_guard lock(mutex_);
    if (last_ >= 0) ::shutdown(last_, SHUT_RDWR);
    ++cuts_;
  }
  void leave() {
    gone_ = true;
    cut();
  }
  int cuts() const { return cuts_; }

 private:
  std::mutex mutex_;
  int control_[2];
  int last_ = -1;
  std::atomic<int> cuts_{0};
  std::atomic<bool> gone_{false};
};

// ---- the client's end

struct Client {
  client::Link link;
  std::atomic<bool> dead{false};
  std::mutex why_mutex;
  std::string why;

  void open(Node& node, std::shared_ptr<net::Stream> stream) {
    client::Link::Owner owner;
    owner.reconnect = [&node](std::chrono::milliseconds) { return node.reconnect(); };
    owner.lost = [this](const std::string& reason) {
      std::lock_guard lock(why_mutex);
      why = reason;
      dead = true;
    };
    owner.dead = [this] { return dead.load(); };
    owner.secret = std::string(wire::kSecretBytes, 's');
    client::Link::Lock lock(link.mutex());
    link.open(std::move(owner), std::move(stream), 0, 0, kGrace);
  }

  // As Session::request, and so on: what is sent under the lock, then the wait.
  std::shared_ptr<client::Answer> ask(client::Link::Lock& lock, wire::MessageType type, uint64_t first, uint64_t second,
                                      char* into, uint64_t wanted) {
    link.wait(lock, [&] { return link.held() < kWindow; });
    wire::Writer out;
    const size_t place = out.begin(type);
    out.put(first);
    if (wanted != 0) out.put(second);
    out.end(place);
    link.put(out.data(), out.size());
    auto asked = std::make_shared<client::Answer>();
    asked->destination = into;
    asked->wanted = wanted;
    link.expect(asked);
    return asked;
  }

  uint64_t uploaded(uint64_t thread) {
    client::Link::Lock lock(link.mutex());
    const auto asked = ask(lock, wire::MessageType::kSync, thread, 0, nullptr, 0);
    link.wait(lock, [&] { return asked->done; });
    if (!asked->done) throw Interrupted();
    return wire::Reader(asked->payload).get<uint64_t>();
  }

  void upload(uint64_t thread, uint64_t number) {
    std::vector<char> bytes(kPiece);
    for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = pattern(number, i);
    wire::Writer out;
    const size_t place = out.begin(wire::MessageType::kWrite);
    out.put(thread);
    out.put(number);
    out.end(place, bytes.size());
    client::Link::Lock lock(link.mutex());
    link.wait(lock, [&] { return link.held() < kWindow; });
    if (dead) throw Interrupted();
    link.put(out.data(), out.size(), bytes.data(), bytes.size());
  }

  // `give_up`: interrupted while it waits; the rest is thrown away when it comes.
  void download(uint64_t seed, bool give_up) {
    std::vector<char> bytes(kPiece);
    client::Link::Lock lock(link.mutex());
    const auto asked = ask(lock, wire::MessageType::kRead, seed, bytes.size(), bytes.data(), bytes.size());
    if (give_up) {
      asked->destination = nullptr;
      return;
    }
    link.wait(lock, [&] { return asked->done; });
    if (!asked->done) throw Interrupted();
    for (size_t i = 0; i < bytes.size(); i += 331) require(bytes[i] == pattern(seed, i), "a download has changed");
  }

  void work(uint64_t thread, int rounds) {
    std::mt19937 random(static_cast<unsigned>(thread));
    uint64_t number = 0;
    try {
      for (int round = 0; round < rounds; ++round) {
        switch (random() % 4) {
          case 0:
            download(random(), random() % 4 == 0);
            break;
          case 1:
            require(uploaded(thread) == number, "an answer is another's");
            break;
          default:
            upload(thread, number++);
        }
      }
      require(uploaded(thread) == number, "not all uploads arrived");
    } catch (const Interrupted&) {
      require(dead, "a wait ended although the session had not");
    }
  }
};

// As the client's flusher does it.
void look_after(Client& client, const std::atomic<bool>& ended) {
  while (!ended) {
    {
      client::Link::Lock lock(client.link.mutex(), std::try_to_lock);
      if (lock.owns_lock()) client.link.look_after();
    }
    std::this_thread::sleep_for(200us);
  }
}

// `lose_after`: cuts until the node is gone for good; 0: it comes back every time, and all must arrive.
int run(int rounds, int lose_after) {
  // Leaked, as sessions are: a thread that reconnects may outlive all of this.
  auto& node = *new Node;
  auto& client = *new Client;
  int server_end = -1;
  client.open(node, node.connect(server_end));
  std::thread server([&] {
    const Received received = serve(server_end, node.control());
    require(lose_after != 0 || received.goodbye, "the session ended without its client's word");
  });
  std::atomic<bool> ended{false};
  std::thread flusher([&] { look_after(client, ended); });
  std::thread cutter([&] {
    std::mt19937 random(1);
    while (!ended) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10 + random() % 40));
      if (lose_after != 0 && node.cuts() >= lose_after) {
        node.leave();
        return;
      }
      node.cut();
    }
  });
  std::vector<std::thread> threads;
  for (uint64_t i = 0; i < kThreads; ++i) threads.emplace_back([&, i] { client.work(i, rounds); });
  for (auto& thread : threads) thread.join();
  ended = true;
  cutter.join();
  flusher.join();
  if (lose_after != 0) {
    require(client.dead, "the loss was told to nobody");
    client.link.leave(100ms);
    ::shutdown(node.control(), SHUT_RDWR);
  } else {
    // After the last cut the goodbye has to find a connection.
    require(client.uploaded(0) != 0, "nothing was uploaded");
    client.link.leave(5000ms);
  }
  server.join();
  return node.cuts();
}

}  // namespace

// A link's surroundings: the flusher is above, and there is no user.
namespace elara::client {
void wake_flusher() noexcept {}
void check_interrupt() {}
}  // namespace elara::client

int main(int count, char** arguments) {
  ::alarm(kMostSeconds);
  const int rounds = count > 1 ? std::atoi(arguments[1]) : 60;
  const int cuts = run(rounds, 0);
  const int lost = run(rounds * 100, 5);
  std::printf("%d threads of %d rounds through %d cuts, and %d before the node was lost\n", kThreads, rounds, cuts,
              lost);
  return 0;
}
