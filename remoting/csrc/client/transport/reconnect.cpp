// Link: coming back after the connection was lost.
#include <algorithm>
#include <thread>
#include <utility>

#include "client/transport/flusher.h"
#include "client/transport/link.h"

namespace elara::client {

namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr milliseconds kFirstPause{20};
constexpr milliseconds kLongestPause{1000};
// One try: long enough for a slow link's handshake, short enough to have several within the grace.
constexpr milliseconds kOneTry{10'000};

milliseconds until(steady_clock::time_point deadline) {
  return std::chrono::ceil<milliseconds>(deadline - steady_clock::now());
}

}  // namespace

// Called wherever the connection may just have been lost; the lock is held.
void Link::connection_changed() {
  if (!channel_ || channel_->connected() || reconnecting_ || owner_.dead()) return;
  descriptor_.store(-1);
  if (grace_.count() == 0) {
    owner_.lost(channel_->loss());
    changed_.notify_all();
    return;
  }
  reconnecting_ = true;
  std::thread([this, self = owner_.self.lock(), lost_at = channel_->lost_at()] { reconnect(lost_at); }).detach();
}

void Link::reconnect(steady_clock::time_point lost_at) {
  const auto deadline = lost_at + grace_;
  milliseconds pause = kFirstPause;
  std::string reason;
  while (!owner_.dead()) {
    const milliseconds left = until(deadline);
    if (left.count() <= 0) {
      owner_.lost("The connection could not be restored within " + std::to_string(grace_.count() / 1000) + " s. " +
                  reason);
      break;
    }
    try {
      come_back();
      return;
    } catch (const net::ConnectionRefused& refused) {
      owner_.lost(refused.what());
      break;
    } catch (const net::NodeGone& gone) {
      owner_.lost(gone.what());
      break;
    } catch (const wire::ProtocolError& error) {
      owner_.lost(error.what());
      break;
    } catch (const std::exception& error) {
      reason = error.what();
    }
    std::this_thread::sleep_for(std::min(pause, std::max(until(deadline), milliseconds(1))));
    pause = std::min(pause * 2, kLongestPause);
  }
  Lock lock(mutex_);
  reconnecting_ = false;
  changed_.notify_all();
}

void Link::come_back() {
  const auto deadline = steady_clock::now() + std::min(kOneTry, grace_);
  std::shared_ptr<net::Stream> stream = owner_.reconnect(until(deadline));
  stream->set_deadline(deadline);
  uint64_t received = 0;
  {
    // Nothing is received without a connection, so this stays true.
    Lock lock(mutex_);
    if (owner_.dead() || !channel_) return;
    received = channel_->received();
  }
  wire::Writer out;
  const size_t place = out.begin(wire::MessageType::kResume);
  out.bytes(owner_.secret.data(), owner_.secret.size());
  out.put(received);
  out.end(place);
  stream->write_all(out.data(), out.size());
  char front[wire::kHeaderBytes];
  stream->read_exact(front, sizeof front);
  const wire::Header header = wire::decode_header(front);
  if (header.type == wire::MessageType::kFatal) {
    std::string sentence(header.length, '\0');
    stream->read_exact(sentence.data(), sentence.size());
    throw wire::ProtocolError(std::string(wire::Reader(sentence).str()));
  }
  if (header.type != wire::MessageType::kReply || header.length != 8) {
    throw wire::ProtocolError("the device server did not answer as it should when the session was resumed");
  }
  char payload[8];
  stream->read_exact(payload, sizeof payload);
  stream->set_deadline(std::nullopt);
  const auto peer_received = wire::Reader(payload, sizeof payload).get<uint64_t>();

  Lock lock(mutex_);
  if (owner_.dead() || !channel_) return;
  const int descriptor = stream->fd();
  if (!channel_->can_resume(peer_received)) {
    throw wire::ProtocolError("the device server asks for bytes of the session that are gone");
  }
  channel_->resume(std::move(stream), peer_received);
  descriptor_.store(descriptor);
  acknowledged_ = std::max(acknowledged_, received);
  reconnecting_ = false;
  channel_->send_some();
  changed_.notify_all();
  connection_changed();
  wake_flusher();
}

}  // namespace elara::client
