// One thread a process that sends what lies in the sessions' buffers when their user pauses, and notices a detach when
// nothing else would.
#pragma once

#include <memory>

namespace elara::client {

class Session;

// Until it is dead and has taken leave of its server.
void watch_session(std::shared_ptr<Session> session);
// A buffer has become non-empty.
void wake_flusher() noexcept;

}  // namespace elara::client
