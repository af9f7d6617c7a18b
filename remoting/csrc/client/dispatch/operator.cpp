#include "client/dispatch/operator.h"

#include <ATen/core/function_schema.h>

#include <array>
#include <atomic>
#include <mutex>
#include <string_view>
#include <unordered_map>

#include "client/dispatch/foreign.h"
#include "client/metadata/captured.h"

namespace elara::client {

namespace {

std::atomic<uint32_t> g_next_number{1};

bool is_scalar_type(const c10::TypePtr& type) {
  auto inner = type;
  if (const auto optional = type->cast<c10::OptionalType>()) inner = optional->getElementType();
  return inner->kind() == c10::TypeKind::NumberType || inner->kind() == c10::TypeKind::FloatType;
}

ReturnFact::Kind kind_of(const c10::TypePtr& type) {
  if (type->kind() == c10::TypeKind::TensorType) return ReturnFact::Kind::kTensor;
  if (type->kind() == c10::TypeKind::ListType &&
      type->castRaw<c10::ListType>()->getElementType()->kind() == c10::TypeKind::TensorType) {
    return ReturnFact::Kind::kTensorList;
  }
  return ReturnFact::Kind::kOther;
}

template <size_t N>
bool is_one_of(std::string_view name, const std::array<std::string_view, N>& names) {
  for (const auto candidate : names) {
    if (name == candidate) return true;
  }
  return false;
}

// Their sizes depend on scalars, which are otherwise not part of a template.
constexpr std::array<std::string_view, 5> kValuesMatter = {"aten::arange", "aten::range", "aten::linspace",
                                                           "aten::logspace", "aten::bincount"};

// Their shape functions do not tell all: of an argument that grows to the result's size, of a lazy conjugate, of the
// strides of an empty `out=`. The server teaches what comes out.
constexpr std::array<std::string_view, 3> kTaught = {"aten::addbmm_", "aten::linalg_lu_solve",
                                                     "aten::triangular_solve"};

}  // namespace

Operator::Operator(const c10::OperatorHandle& op) : handle(op), number(g_next_number++) {
  const auto& schema = op.schema();
  name = schema.name() + (schema.overload_name().empty() ? "" : "." + schema.overload_name());
  arguments = schema.arguments().size();
  bool has_out = false;
  for (const auto& argument : schema.arguments()) {
    const bool written = argument.alias_info() != nullptr && argument.alias_info()->isWrite();
    scalar_argument.push_back(is_scalar_type(argument.type()));
    written_argument.push_back(written);
    writes = writes || written;
    has_out = has_out || (written && argument.kwarg_only());
  }
  for (const auto& result : schema.returns()) {
    ReturnFact fact;
    fact.kind = kind_of(result.type());
    if (const auto* alias = result.alias_info()) {
      for (size_t i = 0; i < arguments; ++i) {
        const auto* other = schema.arguments()[i].alias_info();
        if (other == nullptr || other->beforeSets() != alias->beforeSets()) continue;
        (alias->isWrite() ? fact.written : fact.viewed) = static_cast<int>(i);
        break;
      }
    }
    always_waits = always_waits || fact.kind == ReturnFact::Kind::kOther;
    returns.push_back(fact);
  }
  if (op.hasTag(at::Tag::dynamic_output_shape)) {
    if (schema.name() == "aten::index") {
      waits_on_mask = true;
    } else {
      always_waits = true;
    }
  }
  // What another library's operator returns may depend on values (the boxes that nms keeps), and no tag need say so.
  always_waits = always_waits || is_foreign(schema.name());
  // The scale factors of these decide the size of the result.
  if (schema.name().find("upsample") != std::string::npos && schema.overload_name().starts_with("vec")) {
    always_waits = true;
  }
  // It only writes; the tag is about the number of elements a mask selects.
  if (schema.name() == "aten::index_put_" || schema.name() == "aten::_index_put_impl_") always_waits = false;
  in_place_only =
      writes && !has_out && !always_waits && returns.size() <= 1 && (returns.empty() || returns[0].written >= 0);
  values_matter = is_one_of(schema.name(), kValuesMatter);
  const bool taught = is_one_of(schema.name(), kTaught);
  in_place_only = in_place_only && !taught;
  if (!taught) meta = captured_meta(op);
}

Operator& operator_for(const c10::OperatorHandle& op) {
  static auto* mutex = new std::mutex;
  static auto* known = new std::unordered_map<c10::OperatorName, std::unique_ptr<Operator>>;
  std::lock_guard lock(*mutex);
  auto& slot = (*known)[op.operator_name()];
  if (!slot) slot = std::make_unique<Operator>(op);
  return *slot;
}

Operator& operator_named(const char* name, const char* overload) {
  return operator_for(c10::Dispatcher::singleton().findSchemaOrThrow(name, overload));
}

}  // namespace elara::client
