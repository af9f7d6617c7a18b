// Operators whose CPU kernels trust their arguments: they were written to be called by torch's own code (a formula of
// autograd, an optimizer), which passes what an earlier kernel made. A client may pass anything.
#pragma once

#include <ATen/core/stack.h>

#include <string_view>

namespace elara::server {

// Looks at an operator's arguments, in the order of its schema, before its kernel runs on the CPU; throws c10::Error.
using ArgumentCheck = void (*)(const torch::jit::Stack& arguments);

// The check of an operator by its name ("aten::_ctc_loss.out"), or null when its kernel checks for itself.
ArgumentCheck argument_check(std::string_view name);

}  // namespace elara::server
