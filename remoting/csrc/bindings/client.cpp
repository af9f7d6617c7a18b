// The Python module of the client: plain functions over the core, no state of its own.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/utils/pybind.h>

#include "client/attach/devices.h"
#include "client/install.h"
#include "client/metadata/template_cache.h"
#include "client/takeover/context.h"
#include "client/takeover/generator.h"
#include "client/takeover/guard.h"
#include "client/takeover/storage.h"
#include "client/transport/interrupt.h"
#include "client/transport/reply.h"
#include "client/transport/session.h"

namespace py = pybind11;
using namespace elara::client;

namespace {

// Runs without the GIL; a signal may have arrived for Python.
void raise_if_interrupted() {
  py::gil_scoped_acquire gil;
  if (PyErr_CheckSignals() != 0) throw py::error_already_set();
}

py::dict device_facts(int ordinal) {
  const auto attachment = current_attachment();
  const int index = checked_ordinal(ordinal);
  const AttachedDevice& device = attachment->devices.at(static_cast<size_t>(index));
  py::dict facts;
  facts["ordinal"] = device.ordinal;
  facts["model"] = device.model;
  facts["uuid"] = device.uuid;
  facts["emulated"] = device.emulated;
  facts["share"] = device.share;
  facts["memory"] = device.memory;
  return facts;
}

py::dict attachment_facts() {
  const auto attachment = current_attachment();
  static constexpr const char* kStates[] = {"none", "attached", "detached", "lost"};
  py::dict facts;
  facts["epoch"] = attachment->epoch;
  facts["state"] = kStates[static_cast<int>(attachment->state)];
  facts["reason"] = attachment->reason;
  facts["expires"] = attachment->expires;
  facts["devices"] = attachment->devices.size();
  return facts;
}

struct ServerStats {
  uint64_t used, peak, lease_used, cap, executed, storages, templates;
};

ServerStats server_stats(int ordinal) {
  const auto held = session_at(checked_ordinal(ordinal));
  Session& session = *held;
  const std::string reply =
      session.request([](elara::wire::Writer& out) { out.end(out.begin(elara::wire::MessageType::kStats)); });
  return parse_reply(session, reply, [](elara::wire::Reader& reader) {
    ServerStats stats{};
    for (uint64_t* field : {&stats.used, &stats.peak, &stats.lease_used, &stats.cap, &stats.executed, &stats.storages,
                            &stats.templates}) {
      *field = reader.get<uint64_t>();
    }
    return stats;
  });
}

py::dict server_stats_dict(int ordinal) {
  ServerStats stats{};
  {
    py::gil_scoped_release release;
    stats = server_stats(ordinal);
  }
  py::dict out;
  out["used"] = stats.used;
  out["peak"] = stats.peak;
  out["lease_used"] = stats.lease_used;
  out["cap"] = stats.cap;
  out["executed"] = stats.executed;
  out["storages"] = stats.storages;
  out["templates"] = stats.templates;
  return out;
}

py::dict client_counters(int ordinal) {
  const auto held = session_at(checked_ordinal(ordinal));
  Session& session = *held;
  py::dict out;
  out["live"] = session.memory.live.load();
  out["peak"] = session.memory.peak.load();
  out["storages"] = session.memory.storages.load();
  out["allocations"] = session.memory.allocations.load();
  out["allocated_total"] = session.memory.allocated_total.load();
  out["refused"] = session.memory.refused.load();
  out["executed"] = session.traffic.executed.load();
  out["requests"] = session.traffic.requests.load();
  out["taught"] = session.traffic.taught.load();
  out["inferred"] = session.traffic.inferred.load();
  out["flushes"] = session.traffic.flushes.load();
  out["bytes_sent"] = session.traffic.bytes_sent.load();
  out["templates"] = TemplateCache::total();
  return out;
}

void reset_peak(int ordinal) {
  const auto held = session_at(checked_ordinal(ordinal));
  Session& session = *held;
  session.memory.peak.store(session.memory.live.load());
  session.send([](elara::wire::Writer& out) { out.end(out.begin(elara::wire::MessageType::kResetPeak)); });
}

}  // namespace

PYBIND11_MODULE(_client, m) {
  using release = py::call_guard<py::gil_scoped_release>;
  m.doc() = "The C++ core of the remoting client.";
  m.def("install", [](const std::string& runtime_dir, int guards) {
    set_interrupt_check(&raise_if_interrupted);
    install(runtime_dir, guards);
  });
  m.def("device_count", &attached_count, release());
  m.def("guard_count", &guard_count);
  m.def("checked_ordinal", &checked_ordinal, release());
  m.def("current_device", &current_device);
  m.def("set_device", [](int ordinal) { set_current_device(checked_ordinal(ordinal)); }, release());
  m.def(
      "exchange_device",
      [](int ordinal) {
        const int before = current_device();
        if (ordinal >= 0) set_current_device(checked_ordinal(ordinal));
        return before;
      },
      release());
  m.def("current_stream", [](int ordinal) { return current_stream(ordinal).id(); });
  m.def("set_stream", &set_current_stream);
  m.def("is_forked", &is_forked);
  m.def("attachment", &attachment_facts);
  m.def("device_facts", &device_facts);
  m.def("connect", [](int ordinal) { session_at(checked_ordinal(ordinal)); }, release());
  m.def("synchronize", [](int ordinal) { session_at(checked_ordinal(ordinal))->synchronize(); }, release());
  m.def("flush", [](int ordinal) { session_at(checked_ordinal(ordinal))->flush(); }, release());
  m.def(
      "leave",
      [] {
        visit_open_sessions([](Session& session) {
          session.retire("CUDA error: this process is about to end, and has left its GPU.");
          session.leave(std::chrono::milliseconds(1000));
        });
      },
      release());
  m.def("server_stats", &server_stats_dict);
  m.def("counters", &client_counters);
  m.def("sessions", &Session::count);
  m.def("reset_peak", &reset_peak, release());
  m.def("forward_context", &forward_context, release());
  m.def("set_template_bound", &TemplateCache::set_bound);
  m.def("default_generator", [](int ordinal) { return default_generator(ordinal); });
  m.def("new_generator", [](int ordinal) { return new_generator(ordinal); });
  m.def(
      "resize_storage_of",
      [](const at::Tensor& tensor, size_t bytes) {
        resize_storage(tensor.unsafeGetTensorImpl()->unsafe_storage().unsafeGetStorageImpl(), bytes);
      },
      release());
}
