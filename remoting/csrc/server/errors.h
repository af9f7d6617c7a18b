// What went wrong on the server: errors of the work, which the client hears about and survives, as against
// wire::ProtocolError, which ends the session.
#pragma once

#include <cstdint>
#include <exception>
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

// The first error since the client last heard of one. Later ones are mostly its consequences.
class ErrorSlot {
 public:
  bool pending() const { return pending_; }
  // Keeps the exception being handled, unless one is pending. `number` is the operator's in the session, or 0. A
  // ProtocolError is rethrown.
  void keep_current(uint64_t number, const std::string& name);
  // Appends it as a kError message and clears the slot.
  void write(wire::Writer& out);

 private:
  bool pending_ = false;
  wire::ErrorKind kind_ = wire::ErrorKind::kRuntime;
  uint64_t number_ = 0;
  std::string operator_;
  std::string message_;
};

}  // namespace elara::server
