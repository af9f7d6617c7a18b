// Session: waiting for answers. Replies come in the order of the requests; each waiter reads its own.
#include <c10/util/Exception.h>
#include <poll.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "client/transport/interrupt.h"
#include "client/transport/remote_error.h"
#include "client/transport/session.h"

namespace elara::client {

namespace {

InterruptCheck g_interrupt_check = nullptr;

}  // namespace

void set_interrupt_check(InterruptCheck check) { g_interrupt_check = check; }
void check_interrupt() {
  if (g_interrupt_check != nullptr) g_interrupt_check();
}

uint64_t Session::take_ticket() {
  traffic.requests++;
  std::lock_guard lock(reply_mutex_);
  return next_ticket_++;
}

void Session::await_turn(uint64_t ticket) {
  std::unique_lock lock(reply_mutex_);
  while (served_ != ticket) {
    if (is_dead()) raise_dead();
    const auto owed = abandoned_.find(served_);
    if (owed == abandoned_.end() || consuming_) {
      reply_turn_.wait(lock);
      continue;
    }
    // Whoever asked gave up (Ctrl-C): its answer still comes first.
    consuming_ = true;
    const uint64_t bytes = owed->second;
    lock.unlock();
    try {
      consume_abandoned(bytes);
    } catch (...) {
      lock.lock();
      consuming_ = false;
      reply_turn_.notify_all();
      throw;
    }
    lock.lock();
    consuming_ = false;
    abandoned_.erase(served_);
    ++served_;
    reply_turn_.notify_all();
  }
}

void Session::end_turn() {
  {
    std::lock_guard lock(reply_mutex_);
    ++served_;
  }
  reply_turn_.notify_all();
}

void Session::wait_readable(uint64_t ticket, uint64_t read_bytes) {
  while (!stream_->buffered()) {
    pollfd waiting{stream_->fd(), POLLIN, 0};
    const int ready = ::poll(&waiting, 1, -1);
    if (ready > 0) return;
    if (ready < 0 && errno == EINTR) {
      try {
        check_interrupt();
      } catch (...) {
        std::lock_guard lock(reply_mutex_);
        abandoned_[ticket] = read_bytes;
        reply_turn_.notify_all();
        throw;
      }
    } else if (ready < 0) {
      lose(std::strerror(errno));
    }
  }
}

wire::Header Session::read_header() {
  char bytes[wire::kHeaderBytes];
  stream_->read_exact(bytes, sizeof bytes);
  return wire::decode_header(bytes);
}

std::string Session::read_payload(const wire::Header& header) {
  std::string payload(header.length, '\0');
  if (header.length != 0) stream_->read_exact(payload.data(), payload.size());
  return payload;
}

void Session::consume_abandoned(uint64_t read_bytes) {
  try {
    uint64_t got = 0;
    do {
      const auto header = read_header();
      read_payload(header);
      if (header.type != wire::MessageType::kData) return;
      got += header.length;
    } while (got < read_bytes);
  } catch (const std::exception& error) {
    if (is_dead()) raise_dead();
    lose(error.what());
  }
}

std::string Session::await_reply(uint64_t ticket) {
  await_turn(ticket);
  wait_readable(ticket, 0);
  wire::Header header{};
  std::string payload;
  try {
    header = read_header();
    payload = read_payload(header);
  } catch (const std::exception& error) {
    if (is_dead()) raise_dead();
    lose(error.what());
  }
  end_turn();
  switch (header.type) {
    case wire::MessageType::kReply:
      return payload;
    case wire::MessageType::kError:
      raise_remote(payload);
    case wire::MessageType::kFatal:
      lose(std::string(wire::Reader(payload).str()));
    default:
      lose("the device server sent a message that this client does not know");
  }
}

void Session::read(uint64_t storage, uint64_t offset, uint64_t bytes, void* destination) {
  if (bytes == 0) return;
  require();
  uint64_t ticket = 0;
  {
    std::lock_guard lock(mutex_);
    const size_t place = out_.begin(wire::MessageType::kRead);
    out_.put(storage);
    out_.put(offset);
    out_.put(bytes);
    out_.end(place);
    flush_locked();
    ticket = take_ticket();
  }
  await_turn(ticket);
  wait_readable(ticket, bytes);
  std::string failure;
  wire::Header header{};
  uint64_t got = 0;
  try {
    for (; got < bytes; got += header.length) {
      header = read_header();
      if (header.type != wire::MessageType::kData || header.length == 0 || header.length > bytes - got) {
        failure = read_payload(header);
        break;
      }
      stream_->read_exact(static_cast<char*>(destination) + got, header.length);
    }
  } catch (const std::exception& error) {
    if (is_dead()) raise_dead();
    lose(error.what());
  }
  end_turn();
  if (got == bytes) return;
  if (header.type == wire::MessageType::kError) raise_remote(failure);
  if (header.type == wire::MessageType::kFatal) lose(std::string(wire::Reader(failure).str()));
  lose("the device server answered a read with something else");
}

void Session::synchronize() {
  request([](wire::Writer& out) { out.end(out.begin(wire::MessageType::kSync)); });
}

void Session::raise_remote(const std::string& payload) { raise_remote_error(*this, payload); }

}  // namespace elara::client
