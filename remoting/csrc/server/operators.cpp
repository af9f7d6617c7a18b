#include "server/operators.h"

#include <algorithm>
#include <string_view>
#include <unordered_set>

#include "ops/op_lists.h"
#include "server/argument_checks.h"

namespace elara::server {

using wire::OutputKind;
using wire::ProtocolError;

namespace {

// Numbers are counted up from small ones by the client, so they index a vector; the bounds keep a forged one from
// growing it without end.
constexpr uint32_t kMostOperators = 16'384;
constexpr uint32_t kMostTemplates = 4u << 20;
// Far above what a program's calls take, and low enough that definitions alone cannot exhaust the node.
constexpr uint64_t kMostTemplateBytes = 1u << 30;
constexpr size_t kLongestName = 256;
constexpr uint32_t kMostArguments = 256;

const std::unordered_set<std::string>& allow_list() {
  static const auto* names = [] {
    auto* made = new std::unordered_set<std::string>;
    for (const ops::OperatorName& entry : ops::allowed()) {
      made->insert(*entry.overload == '\0' ? entry.name : std::string(entry.name) + "." + entry.overload);
    }
    return made;
  }();
  return *names;
}

template <class T>
std::unique_ptr<T>& place(std::vector<std::unique_ptr<T>>& table, uint32_t number, uint32_t most) {
  if (number >= most) throw ProtocolError("number " + std::to_string(number) + " is larger than a session may use");
  if (number >= table.size()) table.resize(number + 1);
  return table[number];
}

template <class T>
const T& at(const std::vector<std::unique_ptr<T>>& table, uint32_t number, const char* what) {
  if (number >= table.size() || !table[number]) {
    throw ProtocolError(std::string("there is no ") + what + " " + std::to_string(number));
  }
  return *table[number];
}

uint64_t footprint(const std::vector<Argument>& arguments) {
  uint64_t bytes = arguments.size() * sizeof(Argument);
  for (const Argument& argument : arguments) bytes += footprint(argument.items);
  return bytes;
}

uint64_t footprint(const std::vector<Output>& outputs) {
  uint64_t bytes = outputs.size() * sizeof(Output);
  for (const Output& output : outputs) bytes += footprint(output.items);
  return bytes;
}

void check_argument_numbers(const std::vector<Output>& outputs, const Call& call) {
  for (const Output& output : outputs) {
    if (output.kind == OutputKind::kAlias || output.kind == OutputKind::kView) {
      if (output.argument >= call.arguments.size()) throw ProtocolError("an output is an alias of no argument");
    }
    check_argument_numbers(output.items, call);
  }
}

}  // namespace

void Call::parse_arguments(wire::Reader& in) {
  const auto count = in.count(1);
  if (count > kMostArguments) throw ProtocolError("no operator takes " + std::to_string(count) + " arguments");
  arguments.reserve(count);
  for (uint32_t i = 0; i < count; ++i) arguments.push_back(Argument::parse(in));
  if (!op->handle) return;
  const auto& parameters = op->handle->schema().arguments();
  // torch's schemas were compared at the opening; another library's may well be of another version.
  const auto fits = [&] {
    if (parameters.size() != arguments.size()) return false;
    for (size_t i = 0; i < arguments.size(); ++i) {
      if (!arguments[i].fits(*parameters[i].type())) return false;
    }
    return true;
  };
  if (op->foreign) {
    other_version = !fits();
    return;
  }
  if (parameters.size() != arguments.size()) {
    throw ProtocolError(op->name + " takes " + std::to_string(parameters.size()) + " arguments, not " +
                        std::to_string(arguments.size()));
  }
  for (size_t i = 0; i < arguments.size(); ++i) {
    if (!arguments[i].fits(*parameters[i].type())) {
      throw ProtocolError("argument " + std::to_string(i) + " (" + parameters[i].name() + ") of " + op->name +
                          " is of another kind than its schema says");
    }
  }
}

void OperatorTable::define_operator(wire::Reader& in) {
  const auto number = in.get<uint32_t>();
  const std::string name(in.str());
  const std::string overload(in.str());
  in.expect_done();
  if (name.size() > kLongestName || overload.size() > kLongestName) {
    throw ProtocolError("an operator's name is longer than any");
  }
  auto& entry = place(operators_, number, kMostOperators);
  if (entry) throw ProtocolError("operator " + std::to_string(number) + " is defined twice");
  entry = std::make_unique<Operator>();
  entry->name = overload.empty() ? name : name + "." + overload;
  entry->foreign = !name.starts_with("aten::");
  entry->handle = find(name, overload);
  entry->check = argument_check(entry->name);
}

std::optional<c10::OperatorHandle> OperatorTable::find(const std::string& name, const std::string& overload) const {
  const std::string whole = overload.empty() ? name : name + "." + overload;
  if (allow_list().contains(whole)) return c10::Dispatcher::singleton().findSchema({name, overload});
  const std::string space = name.substr(0, name.find("::"));
  if (std::find(libraries_.begin(), libraries_.end(), space) == libraries_.end()) return std::nullopt;
  const auto found = c10::Dispatcher::singleton().findSchema({name, overload});
  // Only what computes on tensors of the device: a library may have operators that read files, too.
  return found && found->hasKernelForDispatchKey(key_) ? found : std::nullopt;
}

void OperatorTable::define_template(wire::Reader& in) {
  const size_t length = in.remaining();
  const auto number = in.get<uint32_t>();
  auto made = std::make_unique<Template>();
  made->op = &op(in.get<uint32_t>());
  made->parse_arguments(in);
  const auto count = in.count(1);
  if (count > kMostArguments) throw ProtocolError("no operator has " + std::to_string(count) + " results");
  made->outputs.reserve(count);
  for (uint32_t i = 0; i < count; ++i) made->outputs.push_back(Output::parse(in));
  in.expect_done();
  check_argument_numbers(made->outputs, *made);
  for (const Output& output : made->outputs) made->new_storages += output.new_storages();
  made->bytes = sizeof(Template) + length + footprint(made->arguments) + footprint(made->outputs);
  if (made->bytes > kMostTemplateBytes - template_bytes_) {
    throw ProtocolError("the session holds too many templates");
  }
  auto& entry = place(templates_, number, kMostTemplates);
  if (entry) throw ProtocolError("template " + std::to_string(number) + " is defined twice");
  template_bytes_ += made->bytes;
  entry = std::move(made);
  ++template_count_;
}

void OperatorTable::drop_templates(wire::Reader& in) {
  while (!in.done()) {
    const auto number = in.get<uint32_t>();
    if (number < templates_.size() && templates_[number]) {
      template_bytes_ -= templates_[number]->bytes;
      templates_[number].reset();
      --template_count_;
    }
  }
}

const Operator& OperatorTable::op(uint32_t number) const { return at(operators_, number, "operator"); }
const Template& OperatorTable::find_template(uint32_t number) const { return at(templates_, number, "template"); }

}  // namespace elara::server
