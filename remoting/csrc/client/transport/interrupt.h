// How a long wait notices Ctrl-C. The core knows no Python; its bindings set the check.
#pragma once

namespace elara::client {

// Runs in a waiting thread after a signal; throws when the wait shall end.
using InterruptCheck = void (*)();
void set_interrupt_check(InterruptCheck check);
void check_interrupt();

}  // namespace elara::client
