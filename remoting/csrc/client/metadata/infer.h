// Knowing what an operator returns without running it, and taking in what the server taught.
#pragma once

#include <ATen/core/ivalue.h>

#include <vector>

#include "client/dispatch/operator.h"
#include "client/metadata/outputs.h"

namespace elara::client {

struct Inferred {
  bool known = false;
  bool resized = false;  // an `out=` argument was resized; ask again
  std::vector<Output> outputs;
};

// By the operator's C++ shape function, or because it only returns what it writes. Raises what the shape function
// raises (sizes that do not fit, types that do not mix), which is how those errors come at the call and not later.
Inferred infer_outputs(const Operator& op, at::ArrayRef<c10::IValue> arguments);

struct Taught {
  bool reusable = true;  // whether the next call of the same template will return the same
  std::vector<Output> outputs;
};

// Throws wire::ProtocolError when the outputs are not what an operator of this schema can return for these arguments,
// or need more than `most_new` fresh storages.
void check_taught(const Operator& op, const std::vector<Output>& outputs, at::ArrayRef<c10::IValue> arguments,
                  uint64_t most_new);

// Brings the client's tensors in line with what the server says of a call it has run (resized `out=` arguments).
Taught take_taught(const Operator& op, std::vector<Output> outputs, at::ArrayRef<c10::IValue> arguments);

// Whether a call with these outputs changes nothing on the server.
bool is_local(const Operator& op, const std::vector<Output>& outputs);

}  // namespace elara::client
