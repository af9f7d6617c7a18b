// Session: which other sessions of this process its device server can copy from and to by itself.
#include <algorithm>
#include <functional>
#include <map>
#include <mutex>
#include <utility>

#include "client/transport/connect.h"
#include "client/transport/session.h"

namespace elara::client {

namespace {

struct Pairs {
  std::mutex mutex;
  // By the smaller address first; sessions live for ever, so addresses stay what they are.
  std::map<std::pair<const Session*, const Session*>, bool> connected;
};

Pairs& pairs() {
  static auto* instance = new Pairs;
  return *instance;
}

}  // namespace

bool Session::reaches(Session& other) {
  if (attachment_ != other.attachment_ || &other == this) return false;
  const std::pair<const Session*, const Session*> key(std::min<const Session*>(this, &other, std::less<>()),
                                                      std::max<const Session*>(this, &other, std::less<>()));
  Pairs& known = pairs();
  std::lock_guard lock(known.mutex);
  const auto found = known.connected.find(key);
  if (found != known.connected.end()) return found->second;
  return known.connected[key] = connect_peers(*attachment_, device(), other.device());
}

}  // namespace elara::client
