// Session: copies between this device and another one of the same client.
#include <string>

#include "server/session.h"

namespace elara::server {

namespace {

constexpr const char* kName = "copy_ (between devices)";

struct Half {
  uint64_t transfer;
  uint32_t ordinal;
  uint64_t storage;
  uint64_t offset;
  uint64_t bytes;
};

Half read_half(wire::Reader& in) {
  Half half{};
  half.transfer = in.get<uint64_t>();
  half.ordinal = in.get<uint32_t>();
  half.storage = in.get<uint64_t>();
  half.offset = in.get<uint64_t>();
  half.bytes = in.get<uint64_t>();
  return half;
}

}  // namespace

Peers& Session::peers() {
  if (peers_ == nullptr) throw wire::ProtocolError("this session has no other devices");
  return *peers_;
}

void Session::introduce(wire::Reader& in) {
  const auto ordinal = in.get<uint32_t>();
  const char* token = in.bytes(wire::kTokenBytes);
  const auto authority = in.str();
  if (ordinal >= wire::kMaxDevices) throw wire::ProtocolError("there is no device of that number");
  if (authority.size() > wire::kMaxAuthority) throw wire::ProtocolError("the authority is too long");
  peers().introduce(ordinal, {std::string(token, wire::kTokenBytes), std::string(authority)});
}

void Session::push(wire::Reader& in) {
  const Half half = read_half(in);
  Peers& others = peers();
  const c10::Storage* storage = nullptr;
  if (!attempt(kName, [&] {
        device_.synchronize();
        storage = &storages_.get(half.storage);
      })) {
    // Both devices tell: this one why, the other that its tensor has no contents.
    attempt(kName, [&] { others.push_error(half.ordinal, half.transfer, "the tensor has no contents there"); });
    return;
  }
  StorageTable::check_range(*storage, half.offset, half.bytes);
  attempt(kName, [&] {
    others.push(half.ordinal, half.transfer, half.bytes, [&](const Peers::Send& send) {
      if (half.bytes != 0) device_.download(*storage, half.offset, half.bytes, send);
    });
  });
}

void Session::pull(wire::Reader& in) {
  const Half half = read_half(in);
  Peers& others = peers();
  const c10::Storage* storage = nullptr;
  attempt(kName, [&] {
    device_.synchronize();
    storage = &storages_.get(half.storage);
  });
  if (storage != nullptr) StorageTable::check_range(*storage, half.offset, half.bytes);
  attempt(kName, [&] {
    others.pull(half.ordinal, half.transfer, half.bytes, [&](const Peers::Receive& receive) {
      if (storage == nullptr) {
        receive(nullptr, half.bytes);
      } else if (half.bytes != 0) {
        device_.upload(*storage, half.offset, half.bytes, receive);
      }
    });
  });
}

}  // namespace elara::server
