// The operators that a session may name, and the templates of its calls.
#pragma once

#include <ATen/core/dispatch/Dispatcher.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "server/argument_checks.h"
#include "server/arguments.h"
#include "wire/codec.h"

namespace elara::server {

struct Operator {
  std::string name;  // "aten::add.Tensor"
  // Empty for one that this server does not run: using it is an error of that call, not of the session.
  std::optional<c10::OperatorHandle> handle;
  bool foreign = false;  // of another library than torch
  // Of an operator whose CPU kernel trusts its arguments; null for the others.
  ArgumentCheck check = nullptr;
};

// A call with everything that does not change from one execution to the next.
struct Call {
  const Operator* op = nullptr;
  std::vector<Argument> arguments;
  // The client's and the server's versions of another library differ in this operator.
  bool other_version = false;

  // u32 count, count x argument. Throws wire::ProtocolError when they do not fit the operator's schema.
  void parse_arguments(wire::Reader& in);
};

struct Template : Call {
  std::vector<Output> outputs;
  uint64_t new_storages = 0;
  uint64_t bytes = 0;  // of memory, about
};

class OperatorTable {
 public:
  // `libraries`: namespaces of operators besides torch's that may be named; they need a kernel at `key`.
  OperatorTable(std::vector<std::string> libraries, c10::DispatchKey key)
      : libraries_(std::move(libraries)), key_(key) {}

  // u32 op, str name, str overload
  void define_operator(wire::Reader& in);
  // u32 template, u32 op, arguments, outputs
  void define_template(wire::Reader& in);
  // n x u32 template
  void drop_templates(wire::Reader& in);

  // Both throw wire::ProtocolError on an unknown number.
  const Operator& op(uint32_t number) const;
  const Template& find_template(uint32_t number) const;
  size_t templates() const { return template_count_; }

 private:
  std::optional<c10::OperatorHandle> find(const std::string& name, const std::string& overload) const;

  std::vector<std::string> libraries_;
  c10::DispatchKey key_;
  std::vector<std::unique_ptr<Operator>> operators_;
  std::vector<std::unique_ptr<Template>> templates_;
  size_t template_count_ = 0;
  uint64_t template_bytes_ = 0;
};

}  // namespace elara::server
