// Reading and writing the messages of protocol.h: a growable append buffer and a bounds-checked reader.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>

#include "wire/protocol.h"

namespace elara::wire {

// The wire is little-endian, and values are copied byte by byte as they lie in memory.
static_assert(std::endian::native == std::endian::little, "the protocol is little-endian");

// The other side broke the protocol; the sentence says how. It ends the session.
class ProtocolError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct Header {
  MessageType type;
  uint8_t flags = 0;
  uint32_t length = 0;
};

inline void encode_header(const Header& header, char* out) {
  const auto type = static_cast<uint8_t>(header.type);
  const uint16_t reserved = 0;
  std::memcpy(out, &type, 1);
  std::memcpy(out + 1, &header.flags, 1);
  std::memcpy(out + 2, &reserved, 2);
  std::memcpy(out + 4, &header.length, 4);
}

// Throws ProtocolError on a payload longer than kMaxPayload or on bits this version does not know.
inline Header decode_header(const char* in) {
  uint8_t type = 0;
  uint8_t flags = 0;
  uint16_t reserved = 0;
  uint32_t length = 0;
  std::memcpy(&type, in, 1);
  std::memcpy(&flags, in + 1, 1);
  std::memcpy(&reserved, in + 2, 2);
  std::memcpy(&length, in + 4, 4);
  if (flags != 0 || reserved != 0) throw ProtocolError("a message header has bits set that this version does not know");
  if (length > kMaxPayload) {
    throw ProtocolError("a message of " + std::to_string(length) + " bytes is longer than the protocol allows");
  }
  return Header{static_cast<MessageType>(type), flags, length};
}

// An append buffer. Memory is never zeroed and never shrinks before release(), so that a connection's buffer settles
// at the size its traffic needs.
class Writer {
 public:
  Writer() = default;
  Writer(const Writer&) = delete;
  Writer& operator=(const Writer&) = delete;
  Writer(Writer&&) noexcept = default;
  Writer& operator=(Writer&&) noexcept = default;

  const char* data() const { return data_.get(); }
  char* data() { return data_.get(); }
  size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  void clear() { size_ = 0; }
  // Drops what was appended since `size` was taken, for instance a message whose encoding failed half-way.
  void truncate(size_t size) { size_ = std::min(size, size_); }
  void release() {
    data_.reset();
    size_ = capacity_ = 0;
  }
  std::string_view view() const { return {data_.get(), size_}; }

  // Appends `count` bytes of undefined contents and returns where they begin (valid until the next append).
  char* grow(size_t count) {
    if (size_ + count > capacity_) reserve(size_ + count);
    char* begin = data_.get() + size_;
    size_ += count;
    return begin;
  }

  template <class T>
  void put(T value) {
    static_assert(std::is_arithmetic_v<T> || std::is_enum_v<T>);
    std::memcpy(grow(sizeof(T)), &value, sizeof(T));
  }
  void bytes(const void* source, size_t count) {
    if (count != 0) std::memcpy(grow(count), source, count);
  }
  void str(std::string_view text) {
    put(static_cast<uint32_t>(text.size()));
    bytes(text.data(), text.size());
  }
  // `count` elements as they lie in memory, without a count in front.
  template <class T>
  void array(const T* source, size_t count) {
    static_assert(std::is_arithmetic_v<T>);
    bytes(source, count * sizeof(T));
  }

  // begin() appends a header and returns its place; end() fills in the length of what was appended after it.
  size_t begin(MessageType type) {
    const size_t place = size_;
    encode_header(Header{type}, grow(kHeaderBytes));
    return place;
  }
  // `more` counts payload bytes that follow on the stream from elsewhere (bulk data that is not copied in here).
  void end(size_t place, uint64_t more = 0) {
    const uint64_t length = size_ - place - kHeaderBytes + more;
    if (length > kMaxPayload) {
      truncate(place);
      throw ProtocolError("a message of " + std::to_string(length) + " bytes is longer than the protocol allows");
    }
    const auto field = static_cast<uint32_t>(length);
    std::memcpy(data_.get() + place + 4, &field, sizeof field);
  }
  // Overwrites a value appended earlier, for instance a count that was not yet known.
  template <class T>
  void patch(size_t place, T value) {
    std::memcpy(data_.get() + place, &value, sizeof(T));
  }

 private:
  struct Free {
    void operator()(char* memory) const { std::free(memory); }
  };

  void reserve(size_t needed) {
    const size_t capacity = std::max<size_t>({needed, capacity_ * 2, 4096});
    // realloc moves pages instead of copying them, and leaves the new part untouched.
    auto* moved = static_cast<char*>(std::realloc(data_.get(), capacity));
    if (moved == nullptr) throw std::bad_alloc();
    (void)data_.release();
    data_.reset(moved);
    capacity_ = capacity;
  }

  std::unique_ptr<char, Free> data_;
  size_t size_ = 0;
  size_t capacity_ = 0;
};

// Reads a payload in place; the memory must outlive the reader and the views it hands out. Every step past the end
// throws ProtocolError.
class Reader {
 public:
  Reader(const void* data, size_t size) : at_(static_cast<const char*>(data)), end_(at_ + size) {}
  explicit Reader(std::string_view payload) : Reader(payload.data(), payload.size()) {}

  size_t remaining() const { return static_cast<size_t>(end_ - at_); }
  bool done() const { return at_ == end_; }
  const char* position() const { return at_; }

  template <class T>
  T get() {
    static_assert(std::is_arithmetic_v<T> || std::is_enum_v<T>);
    T value;
    std::memcpy(&value, bytes(sizeof(T)), sizeof(T));
    return value;
  }
  const char* bytes(uint64_t count) {
    if (count > remaining()) throw ProtocolError("a message ends before its contents do");
    const char* begin = at_;
    at_ += count;
    return begin;
  }
  std::string_view str() {
    const auto length = get<uint32_t>();
    return {bytes(length), length};
  }
  std::string_view rest() {
    const size_t length = remaining();
    return {bytes(length), length};
  }
  // A count of elements that are at least `element_bytes` long each, so that a forged count cannot make us reserve
  // memory that the message could never fill.
  uint32_t count(size_t element_bytes) {
    const auto n = get<uint32_t>();
    if (static_cast<uint64_t>(n) * std::max<size_t>(element_bytes, 1) > remaining()) {
      throw ProtocolError("a list in a message is longer than the message");
    }
    return n;
  }
  // Copies `count` elements into `out` (unaligned on the wire).
  template <class T>
  void array(T* out, size_t count) {
    static_assert(std::is_arithmetic_v<T>);
    const char* from = bytes(static_cast<uint64_t>(count) * sizeof(T));
    if (count != 0) std::memcpy(out, from, count * sizeof(T));
  }
  void expect_done() const {
    if (!done()) throw ProtocolError("a message is longer than its contents");
  }

 private:
  const char* at_;
  const char* end_;
};

}  // namespace elara::wire
