// Reading a reply's payload. What a device server says is not trusted: a payload that makes no sense ends the session.
#pragma once

#include <string>

#include "wire/codec.h"

namespace elara::client {

class Session;

// Ends the session, and raises why.
[[noreturn]] void refuse_reply(Session& session, const std::string& why);

// Returns what `parse(reader)` makes of the payload, all of it.
template <class Parse>
auto parse_reply(Session& session, const std::string& payload, Parse&& parse) {
  std::string why;
  try {
    wire::Reader reader(payload);
    auto result = parse(reader);
    reader.expect_done();
    return result;
  } catch (const wire::ProtocolError& error) {
    why = error.what();
  }
  refuse_reply(session, why);
}

}  // namespace elara::client
