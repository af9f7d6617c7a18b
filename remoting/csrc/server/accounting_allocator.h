// The CPU allocator of an emulated device: charges every block to the lease's ledger, and keeps freed large blocks.
#pragma once

#include <cstdint>
#include <string>

#include "server/ledger.h"

namespace elara::server {

// Makes all CPU tensors of this process from now on count against `ledger`, storages and temporaries alike, and fail
// with c10::OutOfMemoryError past its cap. `device_name` is used in that sentence. The ledger must live as long as the
// process. Blocks allocated before are not counted.
void charge_cpu_memory_to(Ledger& ledger, const std::string& device_name);

// The sentence for an allocation of `bytes` that the ledger refused.
std::string out_of_memory_sentence(const Ledger& ledger, uint64_t bytes, const std::string& device_name);
// Its second half, with a blank in front: the cap, what is free of it, and who holds the rest.
std::string memory_situation(const Ledger& ledger, const std::string& device_name);

}  // namespace elara::server
