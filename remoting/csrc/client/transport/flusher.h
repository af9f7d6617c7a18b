// One thread a process that sends what lies in the sessions' buffers when their user pauses, and notices a detach when
// nothing else would.
#pragma once

namespace elara::client {

class Session;

void watch_session(Session* session);
// A buffer has become non-empty.
void wake_flusher() noexcept;

}  // namespace elara::client
