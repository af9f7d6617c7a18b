#include "server/peers.h"

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

void Peers::add(uint32_t ordinal, std::shared_ptr<net::Stream> connection) {
  {
    std::lock_guard lock(mutex_);
    connections_[ordinal] = std::move(connection);
  }
  arrived_.notify_all();
}

std::shared_ptr<net::Stream> Peers::connection(uint32_t ordinal) {
  std::unique_lock lock(mutex_);
  if (!arrived_.wait_for(lock, kArrival, [&] { return connections_.contains(ordinal); })) {
    broken(ordinal, "they are not connected");
  }
  return connections_[ordinal];
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
