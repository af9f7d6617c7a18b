// Running one operator on a device: the boxed kernel behind every forwarded operator.
#pragma once

#include <ATen/core/stack.h>

#include "client/dispatch/operator.h"

namespace elara::client {

// Takes the arguments off the stack and puts the results there. Returns before the operator has run, except where its
// results must be asked for.
void execute(Operator& op, torch::jit::Stack& stack);

// aten::copy_ between two tensors of one device.
void copy_on_device(const at::Tensor& destination, const at::Tensor& source, bool non_blocking);

}  // namespace elara::client
