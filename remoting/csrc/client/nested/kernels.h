// Nested tensors (torch.nested, layout torch.strided) of an attached GPU: a buffer there, whose pieces' sizes lie in
// host memory. The layout torch.jagged is made of ordinary tensors in Python and needs nothing of this.
#pragma once

namespace elara::client::nested {

// What takes a nested tensor to the device, before anything has opened a session there.
void register_conversion();

// Everything else at the dispatch key NestedTensorCUDA, and a sentence for what is not there.
void register_kernels();

}  // namespace elara::client::nested
