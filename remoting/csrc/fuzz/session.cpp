// Fuzzes a device server's session with everything behind it: messages, templates, storages, torch's kernels. The input
// is what a client that was accepted sends.
#include "server/session.h"

#include <ATen/Parallel.h>
#include <ATen/core/LegacyTypeDispatch.h>

#include <cstdio>
#include <cstdlib>
#include <memory>

#include "fuzz/memory_stream.h"
#include "server/accounting_allocator.h"

using namespace elara;

namespace {

constexpr uint64_t kMemory = 16 << 20;

struct World {
  server::Ledger ledger{-1, 0, kMemory};
  server::ServeOptions options;
  std::unique_ptr<server::Device> device = server::open_device("cpu");
  World() {
    at::set_num_threads(1);
    server::charge_cpu_memory_to(ledger, "fuzzed device");
  }
};

World& world() {
  static auto* the = new World;
  return *the;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  World& here = world();
  const at::AutoDispatchBelowADInplaceOrView below_autograd;
  const uint64_t before = here.ledger.used_by_session();
  try {
    fuzz::MemoryStream stream({reinterpret_cast<const char*>(data), size});
    server::MessageInput input(stream);
    server::Session session(stream, input, *here.device, here.ledger, here.options);
    session.run();
  } catch (const net::ConnectionLost&) {
  } catch (const wire::ProtocolError&) {
  }
  if (here.ledger.used_by_session() != before) {
    std::fprintf(stderr, "the session ended and left memory behind\n");
    std::abort();
  }
  return 0;
}
