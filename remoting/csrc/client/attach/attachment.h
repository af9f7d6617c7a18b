// The attachment file (docs/contracts.md, 3): which devices this workspace has at the moment.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace elara::client {

enum class AttachmentState { kNone, kAttached, kDetached, kLost };

struct AttachedDevice {
  int ordinal = 0;
  std::string model;
  std::string uuid;
  bool emulated = false;
  int share = 1000;     // thousandths
  uint64_t memory = 0;  // the lease's cap on this device, bytes
  std::string local;    // path of a Unix socket, or empty
  std::string tcp;      // host:port, or empty
  std::string ca;       // PEM file, for TCP
  std::array<uint8_t, 32> secret{};
};

struct Attachment {
  uint64_t epoch = 0;
  AttachmentState state = AttachmentState::kNone;
  std::string reason;
  std::array<uint8_t, 16> lease{};
  int64_t expires = 0;                  // Unix seconds, 0 for never
  std::vector<AttachedDevice> devices;  // devices[i].ordinal == i
};

// Reads the text of an attachment file; nothing when it is not one (a reader must survive whatever lies there).
std::optional<Attachment> parse_attachment(const std::string& text);

// Follows one attachment file. Not thread-safe: the device table guards it.
class AttachmentFile {
 public:
  explicit AttachmentFile(std::string path) : path_(std::move(path)) {}

  // Looks at the file's identity (one stat) and reads it again when it was replaced. Returns the new contents when they
  // differ from the last ones handed out, else null. A file that is gone reads as an attachment of no devices.
  std::shared_ptr<const Attachment> changed();

 private:
  struct Identity {
    uint64_t inode = 0;
    int64_t seconds = 0;
    int64_t nanoseconds = 0;
    int64_t size = -1;
    bool operator==(const Identity&) const = default;
  };

  std::string path_;
  Identity seen_;
  bool read_once_ = false;
};

}  // namespace elara::client
