#include "client/attach/attachment.h"

#include <sys/stat.h>

#include <algorithm>
#include <charconv>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string_view>

namespace elara::client {

namespace {

constexpr std::string_view kMagic = "elara-attachment 1";

template <class T>
bool read_number(std::string_view text, T& out) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out);
  return error == std::errc() && end == text.data() + text.size();
}

template <size_t N>
bool read_hex(std::string_view text, std::array<uint8_t, N>& out) {
  // A UUID may be written with its hyphens.
  std::string digits;
  std::copy_if(text.begin(), text.end(), std::back_inserter(digits), [](char c) { return c != '-'; });
  if (digits.size() != 2 * N) return false;
  for (size_t i = 0; i < N; ++i) {
    const char* begin = digits.data() + 2 * i;
    if (std::from_chars(begin, begin + 2, out[i], 16).ptr != begin + 2) return false;
  }
  return true;
}

bool read_device_line(std::string_view key, std::string_view value, AttachedDevice& device) {
  if (key == "model") device.model = value;
  if (key == "uuid") device.uuid = value;
  if (key == "emulated") device.emulated = value == "1";
  if (key == "local") device.local = value;
  if (key == "tcp") device.tcp = value;
  if (key == "ca") device.ca = value;
  if (key == "share") return read_number(value, device.share);
  if (key == "memory") return read_number(value, device.memory);
  if (key == "secret") return read_hex(value, device.secret);
  return true;
}

bool read_head_line(std::string_view key, std::string_view value, Attachment& attachment) {
  if (key == "reason") attachment.reason = value;
  if (key == "epoch") return read_number(value, attachment.epoch);
  if (key == "expires") return read_number(value, attachment.expires);
  if (key == "lease") return value.empty() || read_hex(value, attachment.lease);
  if (key == "state") {
    if (value == "attached") attachment.state = AttachmentState::kAttached;
    if (value == "detached") attachment.state = AttachmentState::kDetached;
    if (value == "lost") attachment.state = AttachmentState::kLost;
    return attachment.state != AttachmentState::kNone;
  }
  return true;
}

}  // namespace

std::optional<Attachment> parse_attachment(const std::string& text) {
  std::istringstream lines(text);
  std::string line;
  if (!std::getline(lines, line) || line != kMagic) return std::nullopt;
  Attachment attachment;
  while (std::getline(lines, line)) {
    const size_t space = line.find(' ');
    const std::string_view key = std::string_view(line).substr(0, space);
    const std::string_view value =
        space == std::string::npos ? std::string_view() : std::string_view(line).substr(space + 1);
    if (key == "device") {
      AttachedDevice device;
      if (!read_number(value, device.ordinal)) return std::nullopt;
      attachment.devices.push_back(std::move(device));
    } else if (attachment.devices.empty() ? !read_head_line(key, value, attachment)
                                          : !read_device_line(key, value, attachment.devices.back())) {
      return std::nullopt;
    }
  }
  std::sort(attachment.devices.begin(), attachment.devices.end(),
            [](const auto& a, const auto& b) { return a.ordinal < b.ordinal; });
  for (size_t i = 0; i < attachment.devices.size(); ++i) {
    if (attachment.devices[i].ordinal != static_cast<int>(i)) return std::nullopt;
  }
  if (attachment.state != AttachmentState::kAttached) attachment.devices.clear();
  return attachment;
}

std::shared_ptr<const Attachment> AttachmentFile::changed() {
  struct stat facts{};
  Identity now;
  if (::stat(path_.c_str(), &facts) == 0) {
    now = {facts.st_ino, facts.st_mtim.tv_sec, facts.st_mtim.tv_nsec, facts.st_size};
  }
  if (read_once_ && now == seen_) return nullptr;
  read_once_ = true;
  seen_ = now;
  if (now.size < 0) return std::make_shared<Attachment>();
  std::ifstream file(path_);
  const std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  auto parsed = parse_attachment(text);
  // A file that cannot be read counts as no devices: a kernel must not fail because of it.
  return std::make_shared<Attachment>(parsed ? std::move(*parsed) : Attachment());
}

}  // namespace elara::client
