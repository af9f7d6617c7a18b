// Which kernel scaled_dot_product_attention takes on a remote device.
#pragma once

namespace elara::client {

void install_attention_choice();

}  // namespace elara::client
