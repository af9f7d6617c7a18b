// One session after its handshake: reads messages, acts on them, answers.
#pragma once

#include <cstdint>
#include <string>

#include "net/stream.h"
#include "server/device.h"
#include "server/errors.h"
#include "server/events.h"
#include "server/executor.h"
#include "server/generators.h"
#include "server/ledger.h"
#include "server/message_input.h"
#include "server/operators.h"
#include "server/peers.h"
#include "server/server.h"
#include "server/storages.h"

namespace elara::server {

class Session {
 public:
  // `peers` brings the connections to the client's other devices, or is null where there are none.
  Session(net::Stream& stream, MessageInput& input, Device& device, Ledger& ledger, const ServeOptions& options,
          Peers* peers = nullptr);

  // Gives back what is charged to the lease, where the session cannot be destroyed because its device is lost.
  void forfeit() noexcept { storages_.forfeit(); }
  // Returns when the client said goodbye; throws net::ConnectionLost, wire::ProtocolError.
  void run();

 private:
  void dispatch(const wire::Header& header);
  void write_storage(uint32_t length);
  void read_storage(wire::Reader& in);
  void send_data(const char* from, uint64_t bytes);
  void push(wire::Reader& in);
  void pull(wire::Reader& in);
  void introduce(wire::Reader& in);
  Peers& peers();
  void answer_stats();
  // Answers a request with what `fill(out)` appends, or with the pending error.
  template <class Fill>
  void answer(const char* name, Fill fill);
  // The same without waiting for the device.
  template <class Fill>
  void answer_at_once(const char* name, Fill fill);
  // Does what may fail as work does; a failure goes to the error slot.
  template <class Work>
  bool attempt(const char* name, Work work) {
    try {
      work();
      return true;
    } catch (...) {
      errors_.keep_current(0, name);
      return false;
    }
  }
  bool answer_pending_error();
  void send();
  void note_activity();

  net::Stream& stream_;
  MessageInput& input_;
  Device& device_;
  Ledger& ledger_;
  Peers* peers_;
  ErrorSlot errors_;
  StorageTable storages_;
  Generators generators_;
  Events events_;
  OperatorTable operators_;
  Executor executor_;
  wire::Writer out_;
  bool goodbye_ = false;
  net::Clock::time_point busy_since_;
  uint64_t executed_noted_ = 0;
};

}  // namespace elara::server
