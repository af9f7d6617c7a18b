// What went wrong on the server: errors of the work, which the client hears about and survives, as against
// wire::ProtocolError, which ends the session.
#pragma once

#include <cstdint>
#include <exception>
#include <functional>
#include <stdexcept>
#include <string>

#include "wire/codec.h"

namespace elara::server {

// An error of an operator or an allocation, with the kind of Python exception that it becomes.
class WorkError : public std::runtime_error {
 public:
  WorkError(wire::ErrorKind kind, const std::string& message) : std::runtime_error(message), kind_(kind) {}
  wire::ErrorKind kind() const { return kind_; }

 private:
  wire::ErrorKind kind_;
};

// The device takes no more work of this process; the session is over, and nothing of it may touch the device again.
class DeviceLost : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// The first error since the client last heard of one. Later ones are mostly its consequences.
class ErrorSlot {
 public:
  // `situation` tells, for an out-of-memory error of the device's own allocator, how the lease's memory stands.
  explicit ErrorSlot(std::function<std::string()> situation) : situation_(std::move(situation)) {}

  bool pending() const { return pending_; }
  // Keeps the exception being handled, unless one is pending. `number` is the operator's in the session, or 0.
  // ProtocolError and net::ConnectionLost are rethrown.
  void keep_current(uint64_t number, const std::string& name);
  // Appends it as a kError message and clears the slot.
  void write(wire::Writer& out);
  // An error came by after which the device takes no more work.
  bool device_lost() const { return device_lost_; }

 private:
  std::function<std::string()> situation_;
  bool pending_ = false;
  bool device_lost_ = false;
  wire::ErrorKind kind_ = wire::ErrorKind::kRuntime;
  uint64_t number_ = 0;
  std::string operator_;
  std::string message_;
};

}  // namespace elara::server
