// Random number generators of a device. The numbers are drawn by the device server; a generator here is a name for one
// there, together with what must be sent when a session opens.
#pragma once

#include <ATen/core/Generator.h>

#include <cstdint>

namespace elara::client {

class Session;

const at::Generator& default_generator(int ordinal);
at::Generator new_generator(int ordinal);
// The server's number for `generator` on `session`; sends its seed or state first when that session does not know it.
uint64_t generator_id(const at::Generator& generator, Session& session);
// Sends the default generators' seeds to every session that opens.
void install_generators();

}  // namespace elara::client
