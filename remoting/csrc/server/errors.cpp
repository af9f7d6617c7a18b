#include "server/errors.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <array>
#include <new>

#include "net/stream.h"

namespace elara::server {

namespace {

// Where a kernel is missing, torch adds a list of every backend that it knows, and where each is registered.
std::string without_backends(std::string message) {
  const size_t advice = message.find(" This could be because the operator doesn't exist for this backend");
  if (advice != std::string::npos) message.resize(advice);
  return message;
}

// CUDA's own text goes on to tell about the whole device, and what other processes hold of it.
std::string in_the_lease(std::string message, const std::function<std::string()>& situation) {
  const size_t device = message.find(" GPU ");
  if (device == std::string::npos || !message.starts_with("CUDA out of memory.")) return message;
  message.resize(device);
  return message + situation();
}

// After these a process's CUDA context takes no more work, whatever it is asked: launch failures, a device-side assert,
// illegal addresses and instructions, and a device that has gone.
bool ends_the_context(int32_t code) {
  constexpr std::array<int32_t, 14> kSticky = {46, 214, 220, 226, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719};
  return std::find(kSticky.begin(), kSticky.end(), code) != kSticky.end();
}

// Without the advice on environment variables of a process that is not the user's.
std::string first_line(const std::string& message) { return message.substr(0, message.find('\n')); }

}  // namespace

void ErrorSlot::keep_current(uint64_t number, const std::string& name) {
  wire::ErrorKind kind = wire::ErrorKind::kRuntime;
  std::string message;
  try {
    throw;
  } catch (const wire::ProtocolError&) {
    throw;
  } catch (const net::ConnectionLost&) {
    throw;
  } catch (const WorkError& error) {
    kind = error.kind();
    message = error.what();
  } catch (const c10::OutOfMemoryError& error) {
    kind = wire::ErrorKind::kOutOfMemory;
    message = in_the_lease(error.what_without_backtrace(), situation_);
  } catch (const c10::IndexError& error) {
    kind = wire::ErrorKind::kIndex;
    message = error.what_without_backtrace();
  } catch (const c10::ValueError& error) {
    kind = wire::ErrorKind::kValue;
    message = error.what_without_backtrace();
  } catch (const c10::TypeError& error) {
    kind = wire::ErrorKind::kType;
    message = error.what_without_backtrace();
  } catch (const c10::NotImplementedError& error) {
    kind = wire::ErrorKind::kNotImplemented;
    message = without_backends(error.what_without_backtrace());
  } catch (const c10::LinAlgError& error) {
    kind = wire::ErrorKind::kLinAlg;
    message = error.what_without_backtrace();
  } catch (const c10::AcceleratorError& error) {
    message = first_line(error.what_without_backtrace());
    if (ends_the_context(error.get_error_code())) device_lost_ = true;
  } catch (const c10::Error& error) {
    message = error.what_without_backtrace();
  } catch (const std::bad_alloc&) {
    kind = wire::ErrorKind::kOutOfMemory;
    message = "CUDA out of memory. The device's node has no memory left.";
  } catch (const std::exception& error) {
    message = error.what();
  } catch (...) {
    message = "the operator failed without saying why";
  }
  if (pending_) return;
  pending_ = true;
  kind_ = kind;
  number_ = number;
  operator_ = name;
  message_ = std::move(message);
}

void ErrorSlot::write(wire::Writer& out) {
  const size_t place = out.begin(wire::MessageType::kError);
  out.put(kind_);
  out.put(number_);
  out.str(operator_);
  // A message may quote a shape list of any length.
  constexpr size_t kMost = size_t{16} * 1024;
  out.str(std::string_view(message_).substr(0, kMost));
  out.end(place);
  pending_ = false;
}

}  // namespace elara::server
