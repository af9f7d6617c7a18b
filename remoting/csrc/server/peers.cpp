#include "server/peers.h"

#include <openssl/crypto.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <utility>
#include <vector>

#include "server/errors.h"

namespace elara::server {

namespace {

// The agent passes the connection on before the client hears that it is there; the client's message may be faster.
constexpr std::chrono::seconds kArrival{10};
constexpr uint32_t kLongestError = 4096;
constexpr size_t kFront = 20;
// Connections that wait for their proof; those before may be a stranger's.
constexpr size_t kMostOffered = 4;
constexpr std::chrono::seconds kProofTime{4};
constexpr char kProven = 1;

std::array<char, kFront> front_of(uint64_t transfer, uint64_t bytes, uint32_t error) {
  std::array<char, kFront> front{};
  std::memcpy(front.data(), &transfer, 8);
  std::memcpy(front.data() + 8, &bytes, 8);
  std::memcpy(front.data() + 16, &error, 4);
  return front;
}

[[noreturn]] void broken(uint32_t ordinal, const std::string& why) {
  throw WorkError(wire::ErrorKind::kRuntime,
                  "the copy between this device and cuda:" + std::to_string(ordinal) + " failed: " + why);
}

}  // namespace

Peers::Peers(std::string certificate, std::string key) : certificate_(std::move(certificate)), key_(std::move(key)) {}

Peers::~Peers() {
  for (const auto& [ordinal, sockets] : offered_) {
    for (const int fd : sockets) ::close(fd);
  }
}

void Peers::offer(uint32_t ordinal, int fd) {
  {
    std::lock_guard lock(mutex_);
    std::deque<int>& waiting = offered_[ordinal];
    waiting.push_back(fd);
    if (waiting.size() > kMostOffered) {
      ::close(waiting.front());
      waiting.pop_front();
    }
  }
  arrived_.notify_all();
}

void Peers::introduce(uint32_t ordinal, Introduction introduction) {
  std::lock_guard lock(mutex_);
  // A new pair of tokens is for a new connection.
  connections_.erase(ordinal);
  introductions_[ordinal] = std::move(introduction);
}

void Peers::add(uint32_t ordinal, std::shared_ptr<net::Stream> connection) {
  {
    std::lock_guard lock(mutex_);
    connections_[ordinal] = std::move(connection);
  }
  arrived_.notify_all();
}

std::shared_ptr<net::Stream> Peers::connection(uint32_t ordinal) {
  const auto until = net::Clock::now() + kArrival;
  std::string why = "they are not connected";
  std::unique_lock lock(mutex_);
  for (;;) {
    const bool any = arrived_.wait_until(lock, until, [&] {
      return connections_.contains(ordinal) || (introductions_.contains(ordinal) && !offered_[ordinal].empty());
    });
    if (!any) broken(ordinal, why);
    if (const auto found = connections_.find(ordinal); found != connections_.end()) return found->second;
    const int fd = offered_[ordinal].front();
    offered_[ordinal].pop_front();
    const Introduction introduction = introductions_[ordinal];
    lock.unlock();
    std::shared_ptr<net::Stream> stream;
    try {
      stream = prove(ordinal, fd, introduction, std::min(until, net::Clock::now() + kProofTime));
    } catch (const net::ConnectionLost& lost) {
      why = lost.what();
    }
    lock.lock();
    if (stream) return connections_[ordinal] = std::move(stream);
  }
}

std::shared_ptr<net::Stream> Peers::prove(uint32_t ordinal, int fd, const Introduction& introduction,
                                          net::Clock::time_point deadline) const {
  const std::string name = "the device server of cuda:" + std::to_string(ordinal);
  std::shared_ptr<net::Stream> stream;
  if (introduction.authority.empty()) {
    stream = net::TlsStream::accept(fd, name, certificate_, key_, deadline);
    stream->set_deadline(deadline);
    char shown[wire::kTokenBytes];
    stream->read_exact(shown, sizeof shown);
    if (CRYPTO_memcmp(shown, introduction.token.data(), sizeof shown) != 0) {
      throw net::ConnectionLost("another one than " + name + " answered");
    }
    stream->write_all(&kProven, 1);
  } else {
    stream = net::TlsStream::connect(fd, name, introduction.authority, deadline);
    stream->set_deadline(deadline);
    stream->write_all(introduction.token.data(), introduction.token.size());
    char answer = 0;
    stream->read_exact(&answer, 1);
  }
  stream->set_deadline(std::nullopt);
  return stream;
}

void Peers::push(uint32_t ordinal, uint64_t transfer, uint64_t bytes,
                 const std::function<void(const Send&)>& contents) {
  const auto stream = connection(ordinal);
  try {
    const auto front = front_of(transfer, bytes, 0);
    stream->write_all(front.data(), front.size());
    contents([&](const char* from, uint64_t piece) { stream->write_all(from, piece); });
  } catch (const net::ConnectionLost& lost) {
    broken(ordinal, lost.what());
  } catch (...) {
    // Half a transfer cannot be taken back; the other side sees the end of the stream.
    stream->shutdown();
    throw;
  }
}

void Peers::push_error(uint32_t ordinal, uint64_t transfer, const std::string& sentence) {
  const auto stream = connection(ordinal);
  const std::string text = sentence.empty() ? "it failed there" : sentence.substr(0, kLongestError);
  try {
    const auto front = front_of(transfer, 0, static_cast<uint32_t>(text.size()));
    stream->write_all(front.data(), front.size());
    stream->write_all(text.data(), text.size());
  } catch (const net::ConnectionLost& lost) {
    broken(ordinal, lost.what());
  }
}

void Peers::pull(uint32_t ordinal, uint64_t transfer, uint64_t bytes,
                 const std::function<void(const Receive&)>& contents) {
  const auto stream = connection(ordinal);
  try {
    std::array<char, kFront> front{};
    stream->read_exact(front.data(), front.size());
    uint64_t number = 0;
    uint64_t length = 0;
    uint32_t error = 0;
    std::memcpy(&number, front.data(), 8);
    std::memcpy(&length, front.data() + 8, 8);
    std::memcpy(&error, front.data() + 16, 4);
    if (number != transfer || error > kLongestError || (error == 0 && length != bytes)) {
      stream->shutdown();
      broken(ordinal, "the two devices disagree about what is copied");
    }
    if (error != 0) {
      std::string text(error, '\0');
      stream->read_exact(text.data(), text.size());
      broken(ordinal, text);
    }
    std::vector<char> scrap;
    contents([&](char* to, uint64_t piece) {
      for (uint64_t done = 0; done < piece;) {
        if (to != nullptr) {
          stream->read_exact(to, piece);
          return;
        }
        scrap.resize(std::min<uint64_t>(piece - done, wire::kChunkBytes));
        stream->read_exact(scrap.data(), scrap.size());
        done += scrap.size();
      }
    });
  } catch (const net::ConnectionLost& lost) {
    broken(ordinal, lost.what());
  }
}

}  // namespace elara::server
