#include "client/transport/link.h"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>
#include <utility>

#include "client/transport/flusher.h"
#include "client/transport/interrupt.h"

namespace elara::client {

namespace {

using wire::MessageType;

constexpr size_t kInput = size_t{64} << 10;
// A thread that reads for others holds the lock no longer than it takes to copy so much.
constexpr uint64_t kMostAtOnce = 4u << 20;
// How often a waiting thread looks whether the session has ended or the user interrupts.
constexpr std::chrono::milliseconds kLook{100};

}  // namespace

void Link::open(Owner owner, std::shared_ptr<net::Stream> stream, uint64_t sent, uint64_t received,
                std::chrono::milliseconds grace) {
  owner_ = std::move(owner);
  grace_ = grace;
  acknowledged_ = received;
  input_.resize(kInput);
  descriptor_.store(stream->fd());
  channel_.emplace(std::move(stream), grace.count() != 0, sent, received);
}

void Link::put(const char* data, size_t bytes) { put(data, bytes, nullptr, 0); }

void Link::put(const char* head, size_t head_bytes, const void* data, size_t bytes) {
  if (!channel_) return;
  try {
    channel_->append(head, head_bytes);
    channel_->append(data, bytes);
  } catch (const std::bad_alloc&) {
    // Half a message cannot be taken back.
    owner_.lost("This process has no memory left for what was to be sent to it");
    throw;
  }
  channel_->send_some();
  connection_changed();
  if (channel_->unsent() != 0) wake_flusher();
}

void Link::expect(std::shared_ptr<Answer> answer) {
  owed_ += answer->wanted;
  answers_.push_back(std::move(answer));
}

void Link::wait(Lock& lock, const std::function<bool()>& done) {
  while (!done()) {
    if (owner_.dead()) return;
    bool look = false;
    if (!polling_) receive();
    if (done()) break;
    if (!connected() || polling_) {
      connection_changed();
      if (owner_.dead()) return;
      ++waiting_;
      look = changed_.wait_for(lock, kLook) == std::cv_status::timeout;
      --waiting_;
    } else {
      // Held, so that its descriptor stays what it is although the connection may be replaced meanwhile.
      const std::shared_ptr<net::Stream> stream = channel_->stream();
      pollfd entry{stream->fd(), static_cast<short>(channel_->unsent() != 0 ? POLLIN | POLLOUT : POLLIN), 0};
      polling_ = true;
      lock.unlock();
      const bool buffered = stream->buffered();
      const int ready = buffered ? 1 : ::poll(&entry, 1, static_cast<int>(kLook.count()));
      look = ready <= 0;
      lock.lock();
      polling_ = false;
      if (channel_) channel_->send_some();
    }
    if (!look) continue;
    const std::chrono::milliseconds silence(4 * wire::heartbeat_milliseconds(grace_.count()));
    if (grace_.count() != 0 && connected() && net::Clock::now() - channel_->last_heard() > silence) {
      channel_->drop("The device server has been silent for too long.");
    }
    connection_changed();
    lock.unlock();
    try {
      check_interrupt();
    } catch (...) {
      lock.lock();
      if (waiting_ != 0) changed_.notify_all();
      throw;
    }
    lock.lock();
  }
  // Somebody else has to read from now on.
  if (waiting_ != 0) changed_.notify_all();
}

void Link::look_after() {
  if (!channel_) return;
  channel_->send_some();
  if (!polling_) receive();
  connection_changed();
}

void Link::leave(std::chrono::milliseconds most) {
  Lock lock(mutex_);
  if (!connected()) {
    close();
    return;
  }
  wire::Writer out;
  out.end(out.begin(MessageType::kGoodbye));
  channel_->append(out.data(), out.size());
  const auto until = net::Clock::now() + most;
  for (;;) {
    channel_->send_some();
    if (!connected() || channel_->unsent() == 0) break;
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(until - net::Clock::now()).count();
    if (left <= 0) break;
    pollfd entry{channel_->stream()->fd(), POLLOUT, 0};
    (void)::poll(&entry, 1, static_cast<int>(left));
  }
  close();
}

void Link::close() {
  if (!channel_) return;
  // An orderly end of the stream: without it a reader over TLS could not tell this from a cut.
  if (channel_->stream()) channel_->stream()->shutdown();
  descriptor_.store(-1);
  // The object may stay for long (a tensor may ask the session why it ended), what it needed does not.
  channel_.reset();
  // An assignment of {} would keep the memory.
  std::deque<std::shared_ptr<Answer>>().swap(answers_);
  std::vector<char>().swap(input_);
  begin_ = end_ = 0;
  std::string().swap(payload_);
  changed_.notify_all();
}

void Link::forget_after_fork() noexcept {
  const int descriptor = descriptor_.exchange(-1);
  if (descriptor >= 0) ::close(descriptor);
}

// ---- what comes in

void Link::receive() {
  if (!channel_) return;
  const uint64_t before = channel_->received();
  bool delivered = false;
  try {
    while (channel_->received() - before < kMostAtOnce) {
      // A large piece of data goes straight to where it belongs.
      if (header_ && header_->type == MessageType::kData && begin_ == end_ && left_ >= kInput) {
        Answer& answer = *answers_.front();
        char* into = answer.destination;
        const size_t got = into != nullptr ? channel_->receive_some(into, left_)
                                           : channel_->receive_some(input_.data(), input_.size());
        if (got == 0) break;
        if (into != nullptr) answer.destination += got;
        left_ -= static_cast<uint32_t>(got);
        if (left_ == 0) {
          finish_message();
          delivered = true;
        }
        continue;
      }
      if (begin_ == end_) begin_ = end_ = 0;
      const size_t got = channel_->receive_some(input_.data() + end_, input_.size() - end_);
      if (got == 0) break;
      end_ += got;
      delivered = parse() || delivered;
    }
  } catch (const std::exception& error) {
    owner_.lost(error.what());
    close();
    return;
  }
  acknowledge_received();
  if (delivered && waiting_ != 0) changed_.notify_all();
}

bool Link::parse() {
  bool delivered = false;
  for (;;) {
    if (!header_) {
      if (end_ - begin_ < wire::kHeaderBytes) {
        std::memmove(input_.data(), input_.data() + begin_, end_ - begin_);
        end_ -= begin_;
        begin_ = 0;
        return delivered;
      }
      const wire::Header header = wire::decode_header(input_.data() + begin_);
      begin_ += wire::kHeaderBytes;
      take_header(header);
    }
    const size_t piece = std::min<size_t>(left_, end_ - begin_);
    if (header_->type == MessageType::kData) {
      Answer& answer = *answers_.front();
      if (answer.destination != nullptr) {
        std::memcpy(answer.destination, input_.data() + begin_, piece);
        answer.destination += piece;
      }
    } else {
      payload_.append(input_.data() + begin_, piece);
    }
    begin_ += piece;
    left_ -= static_cast<uint32_t>(piece);
    if (left_ != 0) return delivered;
    finish_message();
    delivered = true;
  }
}

void Link::take_header(const wire::Header& header) {
  const bool answers =
      header.type == MessageType::kReply || header.type == MessageType::kError || header.type == MessageType::kData;
  if (!answers && header.type != MessageType::kFatal && header.type != MessageType::kAck) {
    throw wire::ProtocolError("the device server sent a message that this client does not know");
  }
  if (answers && answers_.empty()) throw wire::ProtocolError("the device server answered what was not asked");
  if (header.type == MessageType::kData && (header.length == 0 || header.length > answers_.front()->wanted)) {
    throw wire::ProtocolError("the device server sent other data than what was asked for");
  }
  if (header.type == MessageType::kReply && answers_.front()->wanted != 0) {
    throw wire::ProtocolError("the device server answered a read with something else");
  }
  header_ = header;
  left_ = header.length;
  payload_.clear();
}

void Link::finish_message() {
  const wire::Header header = *header_;
  header_.reset();
  switch (header.type) {
    case MessageType::kAck: {
      wire::Reader reader(payload_);
      if (!channel_->acknowledge(reader.get<uint64_t>())) {
        throw wire::ProtocolError("the device server acknowledged what was never sent");
      }
      return;
    }
    case MessageType::kFatal:
      throw std::runtime_error(std::string(wire::Reader(payload_).str()));
    default:
      break;
  }
  Answer& answer = *answers_.front();
  answer.type = header.type;
  const uint64_t data = header.type == MessageType::kData ? header.length : answer.wanted;
  answer.wanted -= data;
  owed_ -= data;
  if (header.type != MessageType::kData) answer.payload = std::exchange(payload_, {});
  if (answer.wanted != 0) return;
  answer.done = true;
  answers_.pop_front();
}

void Link::acknowledge_received() {
  if (grace_.count() == 0 || !connected() || channel_->received() - acknowledged_ < wire::kAckEvery) return;
  wire::Writer out;
  const size_t place = out.begin(MessageType::kAck);
  out.put<uint64_t>(channel_->received());
  out.end(place);
  acknowledged_ = channel_->received();
  channel_->append(out.data(), out.size());
  channel_->send_some();
}

}  // namespace elara::client
