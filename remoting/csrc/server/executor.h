// Runs operators: arguments in, torch's boxed call, outputs bound to storage ids.
#pragma once

#include <ATen/core/stack.h>

#include <cstdint>

#include "server/arguments.h"
#include "server/device.h"
#include "server/errors.h"
#include "server/operators.h"
#include "server/storages.h"

namespace elara::server {

class Executor {
 public:
  Executor(Device& device, StorageTable& storages, Generators& generators, ErrorSlot& errors);

  // One kExecute. An error of the operator goes into the error slot, and the ids of its outputs are poisoned; only
  // wire::ProtocolError is thrown.
  void execute(const Template& call, uint64_t first_output, wire::Reader& variables);
  // One kTeach: runs the call and appends what its outputs really were to `reply`. On an error nothing is bound, and
  // `reply` is left as it was; false then.
  bool teach(const Call& call, uint64_t first_output, wire::Reader& variables, wire::Writer& reply);

  uint64_t executed() const { return executed_; }

 private:
  // Fills stack_ with the arguments, runs the operator, and leaves the outputs there.
  void run(const Call& call, wire::Reader& variables);
  void share_identity();
  void bind(const Output& expected, const c10::IValue& value, uint64_t& id);
  void bind_new(const Output& expected, const at::Tensor& result, uint64_t id);
  at::Tensor on_device(const at::Tensor& made) const;
  void check_argument(const Output& expected, const at::Tensor& made) const;
  // Whether `made`, being argument `number` itself, still has the shape it was passed with.
  bool shape_unchanged(size_t number, const at::Tensor& made) const;
  void describe(const c10::IValue& value, uint64_t& id, wire::Writer& reply);
  void describe_tensor(at::Tensor made, uint64_t& id, wire::Writer& reply);

  Device& device_;
  StorageTable& storages_;
  ErrorSlot& errors_;
  ArgumentReader reader_;
  const Call* call_ = nullptr;  // the one being run
  torch::jit::Stack stack_;
  std::vector<at::Tensor> tensor_arguments_;  // by argument number; undefined for those that are no tensor
  uint64_t executed_ = 0;
};

}  // namespace elara::server
