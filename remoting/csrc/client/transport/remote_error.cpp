#include "client/transport/remote_error.h"

#include <c10/util/Exception.h>

#include <cstdio>

#include "client/transport/readable.h"
#include "client/transport/reply.h"
#include "client/transport/session.h"

namespace elara::client {

namespace {

std::string format_bytes(uint64_t bytes) {
  char text[32];
  if (bytes >= (1u << 30)) {
    std::snprintf(text, sizeof text, "%.2f GiB", static_cast<double>(bytes) / (1u << 30));
  } else {
    std::snprintf(text, sizeof text, "%.2f MiB", static_cast<double>(bytes) / (1u << 20));
  }
  return text;
}

std::string describe(int ordinal, uint64_t number, const std::string& op, const std::string& message) {
  if (op.empty()) return message;
  std::string text = message + "\n(raised on cuda:" + std::to_string(ordinal) + " by " + op;
  if (number != 0) text += ", operator " + std::to_string(number) + " of this session";
  return text + "; operators run asynchronously, so the traceback may point at a later call)";
}

struct RemoteError {
  wire::ErrorKind kind;
  uint64_t number;
  std::string op;
  std::string message;
};

}  // namespace

void refuse_reply(Session& session, const std::string& why) {
  const std::string text = "CUDA error: the session on cuda:" + std::to_string(session.ordinal()) +
                           " ended, because the device server's answer makes no sense: " + why +
                           ". Its tensors are lost; attach a GPU again, and tell an administrator.";
  session.retire(text);
  TORCH_CHECK(false, text);
}

void raise_remote_error(Session& session, const std::string& payload) {
  const RemoteError error = parse_reply(session, payload, [](wire::Reader& reader) {
    const auto kind = reader.get<wire::ErrorKind>();
    const auto number = reader.get<uint64_t>();
    std::string op = readable(reader.str().substr(0, 256));
    return RemoteError{kind, number, std::move(op), readable(reader.str())};
  });
  const std::string& op = error.op;
  const std::string text = describe(session.ordinal(), error.number, op, error.message);
  switch (error.kind) {
    case wire::ErrorKind::kOutOfMemory:
      session.memory.refused++;
      TORCH_CHECK_WITH(OutOfMemoryError, false,
                       text.starts_with("CUDA out of memory") ? text : "CUDA out of memory. " + text);
    case wire::ErrorKind::kRefused:
      TORCH_CHECK_NOT_IMPLEMENTED(false, op, " does not run on an attached GPU: ", error.message,
                                  ". Move its arguments to the CPU first (tensor.cpu()).");
    case wire::ErrorKind::kNotImplemented:
      TORCH_CHECK_NOT_IMPLEMENTED(false, text);
    case wire::ErrorKind::kIndex:
      TORCH_CHECK_INDEX(false, text);
    case wire::ErrorKind::kValue:
      TORCH_CHECK_VALUE(false, text);
    case wire::ErrorKind::kType:
      TORCH_CHECK_TYPE(false, text);
    case wire::ErrorKind::kLinAlg:
      TORCH_CHECK_LINALG(false, text);
    case wire::ErrorKind::kProtocol:
      session.retire("CUDA error: the session on cuda:" + std::to_string(session.ordinal()) +
                     " ended, because client and device server did not understand each other: " + text);
      break;
    case wire::ErrorKind::kRuntime:
      break;
  }
  TORCH_CHECK(false, text);
}

void raise_out_of_memory(Session& session, uint64_t asked, uint64_t live) {
  const auto& facts = session.facts();
  const uint64_t free = facts.memory_cap > live ? facts.memory_cap - live : 0;
  TORCH_CHECK_WITH(OutOfMemoryError, false, "CUDA out of memory. Tried to allocate ", format_bytes(asked), ". GPU ",
                   session.ordinal(), " has a total capacity of ", format_bytes(facts.memory_cap), " of which ",
                   format_bytes(free), " is free. This process has ", format_bytes(live),
                   " memory in use. The capacity is what the attachment allows; attach a larger share for more.");
}

}  // namespace elara::client
