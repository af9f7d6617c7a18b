#include "client/dispatch/execute.h"

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include "client/attach/devices.h"
#include "client/dispatch/encode.h"
#include "client/dispatch/foreign.h"
#include "client/metadata/infer.h"
#include "client/takeover/storage.h"
#include "client/transport/reply.h"
#include "client/transport/session.h"

namespace elara::client {

namespace {

using Arguments = at::ArrayRef<c10::IValue>;

void define_operator(wire::Writer& out, const Operator& op, Session& session) {
  if (!session.mark_operator(op.number)) return;
  const auto& schema = op.handle.schema();
  const size_t place = out.begin(wire::MessageType::kDefineOp);
  out.put(op.number);
  out.str(schema.name());
  out.str(schema.overload_name());
  out.end(place);
}

void define_template(wire::Writer& out, const Operator& op, const Template& known, Session& session) {
  if (!session.mark_template(known.number)) return;
  define_operator(out, op, session);
  const size_t place = out.begin(wire::MessageType::kDefineTemplate);
  out.put(known.number);
  out.put(op.number);
  out.put(static_cast<uint32_t>(op.arguments));
  out.bytes(known.key.data(), known.key.size());
  encode_outputs(out, known.outputs);
  out.end(place);
}

void replace_arguments(torch::jit::Stack& stack, size_t count, std::vector<c10::IValue> results) {
  torch::jit::drop(stack, count);
  for (auto& result : results) stack.push_back(std::move(result));
}

void finish(const Operator& op, const std::vector<Output>& outputs, Session& session, uint64_t first,
            torch::jit::Stack& stack) {
  const Arguments arguments = torch::jit::last(stack, op.arguments);
  if (outputs.size() == 1) [[likely]] {
    c10::IValue result = build_output(outputs[0], session, first, arguments);
    torch::jit::drop(stack, op.arguments);
    stack.push_back(std::move(result));
    return;
  }
  std::vector<c10::IValue> results;
  results.reserve(outputs.size());
  for (const Output& output : outputs) results.push_back(build_output(output, session, first, arguments));
  replace_arguments(stack, op.arguments, std::move(results));
}

// As CUDA does: indices may lie on the CPU. Returns whether the call must wait for its result's size.
bool prepare_indices(const Operator& op, torch::jit::Stack& stack) {
  bool mask = false;
  const size_t base = stack.size() - op.arguments;
  for (size_t i = 0; i < op.arguments; ++i) {
    c10::IValue& value = stack[base + i];
    if (!value.isOptionalTensorList()) continue;
    const auto list = value.toOptionalTensorList();
    bool uploads = false;
    for (const auto& element : list) {  // a stand-in for the element, and not a reference to it
      const std::optional<at::Tensor> index = element;
      if (!index || !index->defined()) continue;
      uploads = uploads || !index->is_cuda();
      mask = mask || index->scalar_type() == at::kBool || index->scalar_type() == at::kByte;
    }
    if (!uploads) continue;
    const c10::IValue& self = stack[base];
    if (!self.isTensor() || !self.toTensor().is_cuda()) continue;
    const auto device = self.toTensor().device();
    c10::List<std::optional<at::Tensor>> moved;
    for (const auto& element : list) {
      const std::optional<at::Tensor> index = element;
      const bool move = index && index->defined() && !index->is_cuda();
      moved.push_back(move ? std::optional<at::Tensor>(index->to(device)) : index);
    }
    value = moved;
  }
  return mask && op.waits_on_mask;
}

// Runs the call now and learns from the server what it returns. Null when that cannot stand for later calls.
std::shared_ptr<const Template> run_taught(Operator& op, torch::jit::Stack& stack, Call& call, Session& session,
                                           bool remember) {
  // An operator returns few fresh storages, but a list may be long (split, unbind): the ids must be reserved before.
  constexpr uint64_t kReserved = 4096;
  const uint64_t first = session.take_storages(kReserved);
  const std::string reply = session.request([&](wire::Writer& out) {
    define_operator(out, op, session);
    const size_t place = out.begin(wire::MessageType::kTeach);
    out.put(op.number);
    out.put(static_cast<uint32_t>(op.arguments));
    out.bytes(call.key.data(), call.key.size());
    out.put(first);
    out.put(static_cast<uint32_t>(call.variables.size()));
    out.bytes(call.variables.data(), call.variables.size());
    out.end(place);
  });
  session.traffic.taught++;
  const Arguments arguments = torch::jit::last(stack, op.arguments);
  auto outputs = parse_reply(session, reply, [&](wire::Reader& reader) {
    auto decoded = decode_outputs(reader);
    check_taught(op, decoded, arguments, kReserved);
    return decoded;
  });
  Taught taught = take_taught(op, std::move(outputs), arguments);
  std::shared_ptr<const Template> known;
  if (remember && taught.reusable) {
    Template made;
    made.key = std::string(call.key.view());
    made.outputs = taught.outputs;
    made.local = is_local(op, made.outputs);
    known = op.templates.add(std::move(made));
  }
  finish(op, taught.outputs, session, first, stack);
  return known;
}

}  // namespace

void execute(Operator& op, torch::jit::Stack& stack) {
  poll_attachment();
  take_over_foreign_operators();
  const bool must_wait = prepare_indices(op, stack) || op.always_waits;
  CallScratch call;
  encode_call(op, torch::jit::last(stack, op.arguments), *call);
  if (!call->session) call->session = session_at(call->device_argument >= 0 ? call->device_argument : current_device());
  Session& session = *call->session;
  session.require();

  if (must_wait) {
    run_taught(op, stack, *call, session, false);
    return;
  }
  auto known = op.templates.find(call->key.view());
  if (!known) [[unlikely]] {
    Inferred inferred = infer_outputs(op, torch::jit::last(stack, op.arguments));
    if (inferred.resized) {
      // An `out=` argument was given the size it needs; now the call looks different.
      execute(op, stack);
      return;
    }
    if (!inferred.known) {
      run_taught(op, stack, *call, session, true);
      return;
    }
    session.traffic.inferred++;
    Template made;
    made.key = std::string(call->key.view());
    made.outputs = std::move(inferred.outputs);
    made.local = is_local(op, made.outputs);
    known = op.templates.add(std::move(made));
  }
  uint64_t first = 0;
  if (!known->local) {
    session.reserve(known->new_bytes);
    first = session.take_storages(known->new_storages);
    session.send([&](wire::Writer& out) {
      define_template(out, op, *known, session);
      const size_t variables = call->variables.size();
      char* message = out.grow(wire::kHeaderBytes + 12 + variables);
      wire::encode_header({wire::MessageType::kExecute, 0, static_cast<uint32_t>(12 + variables)}, message);
      std::memcpy(message + wire::kHeaderBytes, &known->number, 4);
      std::memcpy(message + wire::kHeaderBytes + 4, &first, 8);
      if (variables != 0) std::memcpy(message + wire::kHeaderBytes + 12, call->variables.data(), variables);
      session.traffic.executed++;
    });
  }
  finish(op, known->outputs, session, first, stack);
}

void copy_on_device(const at::Tensor& destination, const at::Tensor& source, bool non_blocking) {
  static Operator& copy = operator_named("aten::copy_", "");
  torch::jit::Stack stack{destination, source, non_blocking};
  execute(copy, stack);
}

}  // namespace elara::client
