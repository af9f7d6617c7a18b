#include "client/dispatch/shared.h"
#include "client/sparse/kernels.h"

namespace elara::client::sparse {

using c10::DispatchKey;

void register_kernels() {
  constexpr const char* kWayOut = "use a dense tensor (tensor.to_dense()) or the CPU (tensor.cpu())";
  refuse_others(DispatchKey::SparseCPU, DispatchKey::SparseCUDA, "sparse tensors", kWayOut);
  refuse_others(DispatchKey::SparseCsrCPU, DispatchKey::SparseCsrCUDA, "sparse tensors", kWayOut);
  torch::Library& coo = library_for(DispatchKey::SparseCUDA, "aten");
  register_coo(coo);
  register_products(coo);
  torch::Library& compressed = library_for(DispatchKey::SparseCsrCUDA, "aten");
  register_compressed(compressed);
  register_shared(coo, DispatchKey::SparseCPU, DispatchKey::SparseCUDA);
  register_shared(compressed, DispatchKey::SparseCsrCPU, DispatchKey::SparseCsrCUDA);
}

}  // namespace elara::client::sparse
