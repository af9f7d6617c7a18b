// Fuzzes the client's reading of the attachment file.
#include "client/attach/attachment.h"

#include <cstdlib>
#include <string>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace elara::client;
  const auto parsed = parse_attachment(std::string(reinterpret_cast<const char*>(data), size));
  if (!parsed) return 0;
  for (size_t i = 0; i < parsed->devices.size(); ++i) {
    if (parsed->devices[i].ordinal != static_cast<int>(i)) std::abort();
  }
  return 0;
}
