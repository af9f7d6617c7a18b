// Session: which other sessions of this process its device server can copy from and to by itself.
#include <sys/random.h>

#include <algorithm>
#include <array>
#include <mutex>
#include <string>
#include <string_view>

#include "client/transport/connect.h"
#include "client/transport/session.h"

namespace elara::client {

namespace {

// Two threads may ask for the same pair at once, and a pair is connected once.
std::mutex& pairs() {
  static auto* mutex = new std::mutex;
  return *mutex;
}

void put_introduction(wire::Writer& out, int ordinal, const std::array<char, wire::kTokenBytes>& token,
                      std::string_view authority) {
  const size_t place = out.begin(wire::MessageType::kIntroduce);
  out.put(static_cast<uint32_t>(ordinal));
  out.bytes(token.data(), token.size());
  out.str(authority);
  out.end(place);
}

}  // namespace

bool Session::reaches(Session& other) {
  if (attachment_ != other.attachment_ || &other == this) return false;
  auto& known = (ordinal_ < other.ordinal_ ? this : &other)->reached_;
  const int key = std::max(ordinal_, other.ordinal_);
  std::lock_guard lock(pairs());
  const auto found = known.find(key);
  if (found != known.end()) return found->second;
  if (on_one_node(device(), other.device())) {
    return known[key] = connect_peers(*attachment_, device(), other.device());
  }
  // Between nodes either may be the one that reaches the other.
  return known[key] = meet(*this, other) || meet(other, *this);
}

bool Session::meet(Session& caller, Session& called) {
  const std::string authority = authority_of(called.device());
  if (authority.empty() || caller.device().tcp.empty() || called.device().tcp.empty()) return false;
  // Before anything is asked of the nodes: both sessions have to be there.
  caller.make_room();
  called.make_room();
  if (!connect_peers(*caller.attachment_, caller.device(), called.device())) return false;
  std::array<char, wire::kTokenBytes> token{};
  if (::getrandom(token.data(), token.size(), 0) != static_cast<ssize_t>(token.size())) return false;
  caller.post([&](wire::Writer& out) { put_introduction(out, called.ordinal(), token, authority); });
  called.post([&](wire::Writer& out) { put_introduction(out, caller.ordinal(), token, {}); });
  return true;
}

}  // namespace elara::client
