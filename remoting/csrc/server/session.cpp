#include "server/session.h"

#include <algorithm>
#include <vector>

#include "server/accounting_allocator.h"
#include "server/context_flags.h"

namespace elara::server {

using wire::MessageType;
using wire::ProtocolError;

Session::Session(net::Stream& stream, MessageInput& input, Device& device, Ledger& ledger, const ServeOptions& options,
                 Peers* peers)
    : stream_(stream),
      input_(input),
      device_(device),
      ledger_(ledger),
      peers_(peers),
      errors_([&ledger, model = options.model] { return memory_situation(ledger, model); }),
      // On the CPU every block is charged as it is allocated.
      storages_(device, device.device().is_cpu() ? nullptr : &ledger, options.model),
      generators_(device.device()),
      operators_(options.libraries, device.device().is_cpu() ? c10::DispatchKey::CPU : c10::DispatchKey::CUDA),
      executor_(device, storages_, generators_, errors_),
      busy_since_(net::Clock::now()) {}

void Session::run() {
  while (!goodbye_) {
    const bool waits = !input_.ready();
    if (waits) note_activity();
    const wire::Header header = input_.header();
    if (waits) busy_since_ = net::Clock::now();
    dispatch(header);
    // Once the client knows of the error.
    if (errors_.device_lost() && !errors_.pending()) throw DeviceLost("a CUDA error that ends all work on the device");
  }
  note_activity();
}

void Session::note_activity() {
  const auto now = net::Clock::now();
  const auto busy = std::chrono::duration_cast<std::chrono::nanoseconds>(now - busy_since_).count();
  ledger_.note_activity(executor_.executed() - executed_noted_, static_cast<uint64_t>(busy));
  executed_noted_ = executor_.executed();
  busy_since_ = now;
  storages_.settle();
}

void Session::send() {
  stream_.write_all(out_.data(), out_.size());
  out_.clear();
}

bool Session::answer_pending_error() {
  if (!errors_.pending()) return false;
  errors_.write(out_);
  send();
  return true;
}

template <class Fill>
void Session::answer(const char* name, Fill fill) {
  // Everything before the request has run by now; on a GPU its errors show when the stream is through.
  attempt(name, [&] { device_.synchronize(); });
  answer_at_once(name, fill);
}

template <class Fill>
void Session::answer_at_once(const char* name, Fill fill) {
  if (answer_pending_error()) return;
  const size_t place = out_.begin(MessageType::kReply);
  if (!attempt(name, fill)) {
    out_.truncate(place);
    errors_.write(out_);
  } else {
    out_.end(place);
  }
  send();
}

void Session::dispatch(const wire::Header& header) {
  if (header.type == MessageType::kWrite) {
    write_storage(header.length);
    return;
  }
  wire::Reader in(input_.bytes(header.length), header.length);
  switch (header.type) {
    case MessageType::kExecute: {
      const Template& call = operators_.find_template(in.get<uint32_t>());
      const auto first_output = in.get<uint64_t>();
      executor_.execute(call, first_output, in);
      // A long run of operators without a pause must not look idle.
      if (executor_.executed() - executed_noted_ >= 256) note_activity();
      return;
    }
    case MessageType::kFree:
      while (!in.done()) storages_.erase(in.get<uint64_t>());
      return;
    case MessageType::kAlloc: {
      const auto id = in.get<uint64_t>();
      const auto bytes = in.get<uint64_t>();
      if (!attempt("alloc", [&] { storages_.allocate(id, bytes); })) storages_.poison(id);
      break;
    }
    case MessageType::kResize: {
      const auto id = in.get<uint64_t>();
      const auto bytes = in.get<uint64_t>();
      if (!attempt("resize_", [&] { storages_.resize(id, bytes); })) storages_.poison(id);
      break;
    }
    case MessageType::kDefineOp:
      operators_.define_operator(in);
      break;
    case MessageType::kDefineTemplate:
      operators_.define_template(in);
      break;
    case MessageType::kDropTemplates:
      operators_.drop_templates(in);
      break;
    case MessageType::kTeach: {
      Call call;
      call.op = &operators_.op(in.get<uint32_t>());
      call.parse_arguments(in);
      const auto first_output = in.get<uint64_t>();
      const auto length = in.get<uint32_t>();
      wire::Reader variables(in.bytes(length), length);
      if (answer_pending_error()) break;
      const size_t place = out_.begin(MessageType::kReply);
      if (executor_.teach(call, first_output, variables, out_)) {
        out_.end(place);
      } else {
        out_.truncate(place);
        errors_.write(out_);
      }
      send();
      break;
    }
    case MessageType::kRead:
      read_storage(in);
      break;
    case MessageType::kPush:
      push(in);
      break;
    case MessageType::kPull:
      pull(in);
      break;
    case MessageType::kIntroduce:
      introduce(in);
      break;
    case MessageType::kSync:
      answer("synchronize", [] {});
      break;
    case MessageType::kStats:
      answer_stats();
      break;
    case MessageType::kContext: {
      const auto key = in.str();
      const auto value = in.get<int64_t>();
      attempt("context", [&] { set_context_flag(key, value); });
      break;
    }
    case MessageType::kResetPeak:
      ledger_.reset_session_peak();
      device_.reset_peak();
      break;
    case MessageType::kGeneratorSeed: {
      const auto number = in.get<uint64_t>();
      const auto seed = in.get<uint64_t>();
      attempt("manual_seed", [&] { generators_.seed(number, seed); });
      break;
    }
    case MessageType::kGeneratorGet: {
      const auto number = in.get<uint64_t>();
      answer("get_state", [&] { generators_.write_state(number, out_); });
      break;
    }
    case MessageType::kGeneratorSet: {
      const auto number = in.get<uint64_t>();
      const auto state = in.rest();
      attempt("set_state", [&] { generators_.set_state(number, state); });
      break;
    }
    case MessageType::kGeneratorFree:
      generators_.erase(in.get<uint64_t>());
      break;
    case MessageType::kEventRecord: {
      const auto event = in.get<uint64_t>();
      (void)in.get<uint64_t>();  // the stream: everything runs in one
      attempt("event", [&] { events_.record(event, device_); });
      break;
    }
    case MessageType::kEventWait:
      (void)in.get<uint64_t>();
      (void)in.get<uint64_t>();
      break;
    case MessageType::kEventElapsed: {
      const auto start = in.get<uint64_t>();
      const auto end = in.get<uint64_t>();
      answer("elapsed_time", [&] { out_.put<double>(events_.elapsed(start, end)); });
      break;
    }
    case MessageType::kEventFree:
      events_.erase(in.get<uint64_t>());
      break;
    case MessageType::kEventQuery: {
      const auto event = in.get<uint64_t>();
      answer_at_once("event", [&] { out_.put<uint8_t>(events_.reached(event) ? 1 : 0); });
      break;
    }
    case MessageType::kAck:
      stream_.acknowledged(in.get<uint64_t>());
      break;
    case MessageType::kGoodbye:
      goodbye_ = true;
      break;
    default:
      throw ProtocolError("message type " + std::to_string(static_cast<int>(header.type)) + " is unknown");
  }
  in.expect_done();
}

void Session::write_storage(uint32_t length) {
  constexpr uint32_t kFront = 16;
  if (length < kFront) throw ProtocolError("a write ends before its contents do");
  wire::Reader in(input_.bytes(kFront), kFront);
  const auto id = in.get<uint64_t>();
  const auto offset = in.get<uint64_t>();
  const uint32_t bytes = length - kFront;
  const c10::Storage* storage = nullptr;
  if (!attempt("copy_ (to the device)", [&] { storage = &storages_.get(id); })) {
    input_.bytes_into(nullptr, bytes);
    return;
  }
  StorageTable::check_range(*storage, offset, bytes);
  uint32_t taken = 0;
  attempt("copy_ (to the device)", [&] {
    device_.upload(*storage, offset, bytes, [&](char* to, uint64_t piece) {
      input_.bytes_into(to, piece);
      taken += static_cast<uint32_t>(piece);
    });
  });
  // What a device that failed did not take is part of the message all the same.
  if (taken < bytes) input_.bytes_into(nullptr, bytes - taken);
}

void Session::read_storage(wire::Reader& in) {
  const auto id = in.get<uint64_t>();
  const auto offset = in.get<uint64_t>();
  const auto bytes = in.get<uint64_t>();
  const c10::Storage* storage = nullptr;
  attempt("copy_ (from the device)", [&] {
    device_.synchronize();
    storage = &storages_.get(id);
  });
  if (storage != nullptr) StorageTable::check_range(*storage, offset, bytes);
  if (answer_pending_error()) return;

  if (bytes == 0) send_data(nullptr, 0);
  const bool sent = attempt("copy_ (from the device)", [&] {
    device_.download(*storage, offset, bytes, [&](const char* from, uint64_t piece) { send_data(from, piece); });
  });
  if (!sent) answer_pending_error();
}

void Session::send_data(const char* from, uint64_t bytes) {
  uint64_t done = 0;
  do {
    const uint64_t piece = std::min<uint64_t>(bytes - done, wire::kChunkBytes);
    const size_t place = out_.begin(MessageType::kData);
    out_.end(place, piece);
    const iovec pieces[] = {{out_.data(), out_.size()}, {const_cast<char*>(from + done), piece}};
    stream_.write_all(pieces);
    out_.clear();
    done += piece;
  } while (done < bytes);
}

void Session::answer_stats() {
  answer("memory_stats", [&] {
    out_.put<uint64_t>(ledger_.used_by_session());
    out_.put<uint64_t>(std::max(ledger_.session_peak(), device_.peak_bytes()));
    out_.put<uint64_t>(ledger_.used_by_lease());
    out_.put<uint64_t>(ledger_.cap());
    out_.put<uint64_t>(executor_.executed());
    out_.put<uint64_t>(storages_.size());
    out_.put<uint64_t>(operators_.templates());
  });
}

}  // namespace elara::server
