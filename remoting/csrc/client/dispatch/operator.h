// What the client knows of one operator: facts from its schema, its shape function, and the templates of its calls.
#pragma once

#include <ATen/core/boxing/KernelFunction.h>
#include <ATen/core/dispatch/Dispatcher.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "client/metadata/template_cache.h"

namespace elara::client {

struct ReturnFact {
  enum class Kind : uint8_t { kTensor, kTensorList, kOther };
  Kind kind = Kind::kTensor;
  int written = -1;  // the argument that is written and returned, or -1
  int viewed = -1;   // the argument that the result is a view of, or -1
};

struct Operator {
  explicit Operator(const c10::OperatorHandle& op);

  c10::OperatorHandle handle;
  uint32_t number;   // on the wire
  std::string name;  // "aten::add.Tensor"
  size_t arguments;
  std::vector<ReturnFact> returns;
  // An int there is a Scalar: a value, not a size, so it varies without a new template.
  std::vector<bool> scalar_argument;
  std::vector<bool> written_argument;
  bool writes = false;         // changes an argument
  bool in_place_only = false;  // returns what it writes, or nothing: needs no shape function
  bool always_waits = false;   // what it returns depends on values
  bool waits_on_mask = false;  // only with a bool or byte index
  bool values_matter = false;  // sizes depend on scalar arguments (arange)
  std::optional<c10::KernelFunction> meta;
  TemplateCache templates;
};

// The one object for `op`, made at first use.
Operator& operator_for(const c10::OperatorHandle& op);
Operator& operator_named(const char* name, const char* overload);

}  // namespace elara::client
