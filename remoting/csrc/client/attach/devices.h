// The devices of the current attachment, and what becomes of them when it changes.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "client/attach/attachment.h"

namespace elara::client {

class Session;

// How many devices an attachment may ever have in one process; arrays are sized by it.
constexpr int kMostDevices = 64;

// Called once. `runtime_dir` holds the file `attachment`. `guards` is the constant number of devices that PyTorch's
// autograd engine is told of: it makes its queues at the first backward(), perhaps long before an attachment.
void configure_devices(const std::string& runtime_dir, int guards);
int guard_count();

// The number of devices attached at this very moment (one stat of a file).
int attached_count();
// The attachment as last read. Never null.
std::shared_ptr<const Attachment> current_attachment();

// Notices a new attachment; looks at the file at most every 50 ms, so that every operator can afford the call.
void poll_attachment();
// Looks at the file now.
void refresh_attachment();

// The current device of this thread.
int current_device();
void set_current_device(int ordinal);

// The session of `ordinal`. Raises: no device is attached, or the ordinal is out of range.
std::shared_ptr<Session> session_at(int ordinal);
// The session of `ordinal` if it is open, else null; connects nowhere.
std::shared_ptr<Session> open_session(int ordinal);
// `ordinal` when it names an attached device, or the current one for -1; else raises as CUDA does.
int checked_ordinal(int ordinal);
// Visits the sessions that are open.
void visit_open_sessions(const std::function<void(Session&)>& visit);

// What other parts want to do as soon as a session is there (generators send their seeds).
using SessionOpened = void (*)(Session&);
void add_session_listener(SessionOpened listener);
void on_session_opened(Session& session);

// In a process forked from one that used a device nothing works, as with CUDA itself.
bool is_forked();
[[noreturn]] void raise_forked();

}  // namespace elara::client
