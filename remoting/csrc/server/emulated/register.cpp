#include "server/emulated/kernels.h"

namespace elara::server::emulated {

void register_kernels() {
  // Never destroyed: its destructor would take the kernels away while tensors may still be freed.
  static auto* library = new torch::Library(torch::Library::IMPL, "aten", c10::DispatchKey::CPU, __FILE__,
                                            static_cast<uint32_t>(__LINE__));
  add_recurrent_kernels(*library);
  add_normalization_kernels(*library);
  add_attention_kernels(*library);
  add_softmax_kernels(*library);
  add_various_kernels(*library);
}

}  // namespace elara::server::emulated
