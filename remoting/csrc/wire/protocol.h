// The data plane's protocol between a remoting client and a device server, version 1.
//
// After the preamble (docs/contracts.md, 4) and, on TCP, the TLS handshake, both sides send messages:
//
//   u8 type | u8 flags (0) | u16 reserved (0) | u32 length | payload of `length` bytes
//
// All integers are little-endian, `str` is u32 length + UTF-8 bytes without a terminator. A client does not wait for an
// answer except after a message marked "-> reply"; replies come in the order of the requests. The n-th message of a
// direction has the implicit sequence number n.
#pragma once

#include <cstdint>

namespace elara::wire {

constexpr uint16_t kProtocolVersion = 1;
constexpr uint32_t kHeaderBytes = 8;
// A longer payload is a protocol error; bulk transfers are cut into pieces of kChunkBytes.
constexpr uint32_t kMaxPayload = 64u << 20;
constexpr uint32_t kChunkBytes = 8u << 20;
constexpr uint32_t kSecretBytes = 32;
constexpr uint32_t kDigestBytes = 32;
constexpr uint32_t kTokenBytes = 32;
constexpr uint32_t kMaxAuthority = 64u << 10;
constexpr uint32_t kMaxDevices = 256;
constexpr uint32_t kMaxDimensions = 64;
// A side tells what it has received at least this often, where the session can be resumed.
constexpr uint32_t kAckEvery = 512u << 10;
// And the server, at least this often, that it is alive. A side that was silent for four times as long is taken for cut
// off.
constexpr int64_t heartbeat_milliseconds(int64_t grace_milliseconds) {
  return grace_milliseconds < 20'000 ? grace_milliseconds / 4 + 1 : 5'000;
}
// Of answers that the client has not acknowledged, the server keeps so many bytes (and a little more, for the last).
constexpr uint32_t kMaxUnacknowledged = 16u << 20;
// Outputs of one operator take consecutive storage ids from `first_output`, in the order they appear (lists flattened).

enum class MessageType : uint8_t {
  // Session
  kHello =
      1,  // u16 version, str torch version, u8[32] schema digest, u8[32] secret, str client name, and from a client
  //   that can resume: u32 milliseconds that it would wait for a lost connection -> reply:
  //   u16 version, str torch version, str device model, u64 memory cap, u8 emulated, u64 device total memory, and for
  //   such a client: u32 milliseconds that the server waits (0: the session cannot be resumed)
  kGoodbye = 2,  // (empty) the session ends in order; the server frees everything
  kSync = 3,     // (empty) -> reply (empty): everything before it has been executed
  kStats =
      4,  // (empty) -> reply: u64 used bytes, u64 peak bytes, u64 lease used bytes, u64 cap, u64 operators executed,
          //   u64 storages, u64 templates
  kContext = 5,    // str key, i64 value: a flag of at::Context. Keys: allow_tf32_cublas, allow_tf32_cudnn,
                   //   allow_fp16_reduction_cublas, allow_bf16_reduction_cublas, cudnn_enabled, benchmark_cudnn,
                   //   deterministic_cudnn, deterministic_algorithms, deterministic_warn_only, sdp_flash,
                   //   sdp_mem_efficient, sdp_math, sdp_cudnn, linalg_backend. An unknown key is ignored
  kResetPeak = 6,  // (empty)
  kAck = 7,     // u64 bytes received of the other side's stream, from the first byte of its hello (or of the reply to
                //   it) on. In both directions, only in sessions that can be resumed. Also a sign of life
  kResume = 8,  // the first message of a connection that continues a session: u8[32] secret, u64 bytes received of the
  //   other side's stream -> reply: u64 the same of the server, or kFatal. Neither is part of the stream; both sides
  //   go on with the first byte that the other has not got, be it in the midst of a message

  // Operators
  kDefineOp = 16,        // u32 op, str name ("aten::add"), str overload ("Tensor")
  kDefineTemplate = 17,  // u32 template, u32 op, u32 count, count x argument, u32 count, count x output
  kExecute = 18,         // u32 template, u64 first output, variables
  kTeach = 19,           // u32 op, u32 count, count x argument, u64 first output, u32 length, variables (length bytes)
                         //   -> reply: u32 count, count x output (what it really was); storages are bound to ids from
                         //   `first output` on, one for each output of kind kNew. An `out=` argument that the
                         //   operator resized comes back as kView of it
  kDropTemplates = 20,   // n x u32 template (n = length / 4): never executed again

  // Storages
  kAlloc = 32,   // u64 storage, u64 bytes (contents undefined)
  kFree = 33,    // n x u64 storage (n = length / 8)
  kResize = 34,  // u64 storage, u64 bytes
  kWrite = 35,   // u64 storage, u64 offset, bytes
  kRead = 36,    // u64 storage, u64 offset, u64 bytes -> one or more kData of at most kChunkBytes, or one kError

  // Copies to and from another device of the same client, whose server holds the other half. Both halves of a transfer
  // are sent in one order for all devices of the client.
  kPush = 40,       // u64 transfer, u32 ordinal of the other device, u64 storage, u64 offset, u64 bytes
  kPull = 41,       // the same, into the storage
  kIntroduce = 42,  // u32 ordinal of another device of the client, on another node; u8[32] what the connection to its
                    //   server is to prove itself with; str the authority (PEM) of that server's certificate where
                    //   this server is the one that speaks first on it, else empty

  // Generators (0 is the default one)
  kGeneratorSeed = 48,  // u64 generator, u64 seed (creates it when new)
  kGeneratorGet = 49,   // u64 generator -> reply: state bytes
  kGeneratorSet = 50,   // u64 generator, state bytes (creates it when new)
  kGeneratorFree = 51,  // u64 generator

  // Streams and events (an emulated device runs everything in order)
  kEventRecord = 64,   // u64 event, u64 stream
  kEventWait = 65,     // u64 event, u64 stream
  kEventElapsed = 66,  // u64 start, u64 end -> reply: f64 milliseconds
  kEventFree = 67,     // u64 event
  kEventQuery = 68,    // u64 event -> reply: u8 done

  // Server to client
  kReply = 128,  // the payload named at the request
  kData = 129,   // bytes of a kRead
  kError = 130,  // u8 ErrorKind, u64 number of the operator in the session (0: none), str operator, str message.
                 //   Stands in the place of a reply. Clears the server's error slot.
  kFatal = 131,  // str sentence: the server closes after it; may come at any time
};

enum class ErrorKind : uint8_t {
  kRuntime = 0,         // RuntimeError
  kOutOfMemory = 1,     // torch.OutOfMemoryError
  kNotImplemented = 2,  // NotImplementedError
  kIndex = 3,           // IndexError
  kValue = 4,           // ValueError
  kType = 5,            // TypeError
  kRefused = 6,         // the operator is not on the allow-list
  kProtocol = 7,        // the client broke the protocol; the session is over
  kLinAlg = 8,          // torch.linalg.LinAlgError
};

// An argument in a template: u8 tag, then the constant part. What varies from call to call stands among an execution's
// variables, in the order of the arguments.
enum class Tag : uint8_t {
  kNone = 0,
  kUndefined = 1,  // an undefined Tensor
  kTensor = 2,  // u8 dtype, u8 TensorFlags, u8 ndim, ndim x i64 size, ndim x i64 stride | var: u64 storage, i64 offset
                //   (in elements)
  kCpuScalar =
      3,        // a 0-dim CPU tensor: u8 dtype, u8 TensorFlags | var: 16 bytes, the value in its first itemsize bytes
  kInt = 4,     // i64
  kIntVar = 5,  // | var: i64
  kDouble = 6,  // f64
  kDoubleVar = 7,            // | var: f64
  kBool = 8,                 // u8
  kString = 9,               // str
  kIntList = 10,             // u32 n, n x i64
  kDoubleList = 11,          // u32 n | var: n x f64
  kBoolList = 12,            // u32 n, n x u8
  kTensorList = 13,          // u32 n, n x (kTensor | kCpuScalar | kUndefined)
  kOptionalTensorList = 14,  // u32 n, n x (kTensor | kCpuScalar | kNone)
  kScalarList = 15,          // u32 n, n x argument
  kDevice = 16,              // the server's own device
  kGenerator = 17,           // | var: u64 generator
  kComplexVar = 18,          // | var: f64 real, f64 imaginary
  kDtype = 19,               // u8 dtype (c10::ScalarType)
  kLayout = 20,              // u8
  kMemoryFormat = 21,        // u8
};

enum TensorFlags : uint8_t { kWrappedNumber = 1, kConjugate = 2, kNegative = 4 };

// An output in a template or in the answer to kTeach: u8 kind, then
enum class OutputKind : uint8_t {
  kNew = 0,  // u8 dtype, u8 TensorFlags, u8 ndim, sizes i64, strides i64, u64 storage bytes: a fresh storage, offset 0
  kAlias = 1,      // u32 argument index: the very tensor that was passed there
  kUndefined = 2,  // an undefined Tensor
  kList = 3,       // u32 n, n x output
  kView =
      4,  // u32 argument index, u8 dtype, u8 flags, u8 ndim, sizes, strides, i64 offset: same storage as the argument
  kInt = 5,      // i64   (5 to 9 only in answers to kTeach: values, not tensors)
  kDouble = 6,   // f64
  kBool = 7,     // u8
  kComplex = 8,  // f64, f64
  kNone = 9,
};

}  // namespace elara::wire
