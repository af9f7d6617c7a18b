// A call as the wire has it: what is constant from call to call (the template's key) and what varies.
#pragma once

#include <ATen/core/ivalue.h>

#include <memory>

#include "client/dispatch/operator.h"
#include "wire/codec.h"

namespace elara::client {

struct Call {
  wire::Writer key;
  wire::Writer variables;
  std::shared_ptr<Session> session;  // of the tensors, or null
  int device_argument = -1;          // the ordinal that a device argument names, or -1
};

// Fills `call`. Raises: tensors of different devices, of an ended attachment, or of a kind that no device takes.
void encode_call(const Operator& op, at::ArrayRef<c10::IValue> arguments, Call& call);

// Buffers of this thread for one call; calls may nest (an index on the CPU is uploaded in the middle of another call).
class CallScratch {
 public:
  CallScratch();
  ~CallScratch();
  CallScratch(const CallScratch&) = delete;
  CallScratch& operator=(const CallScratch&) = delete;
  Call& operator*() const { return *call_; }
  Call* operator->() const { return call_; }

 private:
  Call* call_;
};

}  // namespace elara::client
