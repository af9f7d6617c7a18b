#include "client/takeover/context.h"

#include <ATen/Context.h>

#include <array>
#include <mutex>

#include "client/attach/devices.h"
#include "client/transport/session.h"

namespace elara::client {

namespace {

struct Flag {
  const char* key;
  int64_t (*read)(const at::Context&);
};

constexpr auto kReduced = at::CuBLASReductionOption::AllowReducedPrecisionWithSplitK;

constexpr std::array<Flag, 14> kFlags = {{
    {"allow_tf32_cublas", [](const at::Context& c) -> int64_t { return c.allowTF32CuBLAS(); }},
    {"allow_tf32_cudnn", [](const at::Context& c) -> int64_t { return c.allowTF32CuDNN(); }},
    {"allow_fp16_reduction_cublas",
     [](const at::Context& c) -> int64_t { return c.allowFP16ReductionCuBLAS() == kReduced; }},
    {"allow_bf16_reduction_cublas",
     [](const at::Context& c) -> int64_t { return c.allowBF16ReductionCuBLAS() == kReduced; }},
    {"cudnn_enabled", [](const at::Context& c) -> int64_t { return c.userEnabledCuDNN(); }},
    {"benchmark_cudnn", [](const at::Context& c) -> int64_t { return c.benchmarkCuDNN(); }},
    {"deterministic_cudnn", [](const at::Context& c) -> int64_t { return c.deterministicCuDNN(); }},
    {"deterministic_algorithms", [](const at::Context& c) -> int64_t { return c.deterministicAlgorithms(); }},
    {"deterministic_warn_only", [](const at::Context& c) -> int64_t { return c.deterministicAlgorithmsWarnOnly(); }},
    {"sdp_flash", [](const at::Context& c) -> int64_t { return c.userEnabledFlashSDP(); }},
    {"sdp_mem_efficient", [](const at::Context& c) -> int64_t { return c.userEnabledMemEfficientSDP(); }},
    {"sdp_math", [](const at::Context& c) -> int64_t { return c.userEnabledMathSDP(); }},
    {"sdp_cudnn", [](const at::Context& c) -> int64_t { return c.userEnabledCuDNNSDP(); }},
    {"linalg_backend",
     [](const at::Context& c) -> int64_t { return static_cast<int64_t>(c.linalgPreferredBackend()); }},
}};

std::mutex g_mutex;

void tell(Session& session) {
  std::lock_guard lock(g_mutex);
  session.told_flags.resize(kFlags.size(), -1);
  for (size_t i = 0; i < kFlags.size(); ++i) {
    int64_t now = 0;
    try {
      now = kFlags[i].read(at::globalContext());
    } catch (const c10::Error&) {
      // PyTorch refuses to answer when its old and its new way of setting a precision were mixed.
      continue;
    }
    if (session.told_flags[i] == now) continue;
    session.told_flags[i] = now;
    session.send([&](wire::Writer& out) {
      const size_t place = out.begin(wire::MessageType::kContext);
      out.str(kFlags[i].key);
      out.put(now);
      out.end(place);
    });
  }
}

}  // namespace

void install_context() { add_session_listener(&tell); }

void forward_context() { visit_open_sessions(&tell); }

}  // namespace elara::client
