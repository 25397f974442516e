// Stands in for libnccl: the functions of cuda/nv_abi.h with their real names, among threads of one process, on the emulator's memory and
// streams. Rule: what the real library refuses is refused, and what hangs there hangs here until the communicator is aborted.
//
//   HEDDLE_FAKE_NCCL_VERSION      23007
//   HEDDLE_FAKE_NCCL_ASYNC_ERROR  a status: what ncclCommGetAsyncError answers
//   HEDDLE_FAKE_NCCL_BREAK        n: the n-th collective of a communicator never ends; the status is then ncclRemoteError
#include "cuda/nv_abi.h"

#include <cstring>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <type_traits>
#include <vector>

#include "collective.h"
#include "find_emulator.h"

namespace heddle::cuda::nvabi {

struct NcclCommOpaque {
  std::shared_ptr<fake::Member> member;
};
struct NcclWindowOpaque {
  void* address;
};

}  // namespace heddle::cuda::nvabi

namespace {

using namespace heddle::cuda::nvabi;
using heddle::fake::Collective;
using heddle::fake::Kind;
using heddle::fake::Member;
using heddle::fake::World;

constexpr int kUnhandledCudaError = 1;
constexpr int kSystemError = 2;
constexpr int kInternalError = 3;
constexpr int kInvalidArgument = 4;
constexpr int kInvalidUsage = 5;
constexpr int kRemoteError = 6;

// Nothing is thrown to the caller.
template <class Body>
int call(Body&& body) {
  try {
    return body();
  } catch (const std::exception&) {
    return kSystemError;
  }
}

// ---- communicators by their id ----

std::mutex worlds_mutex;
std::map<uint64_t, std::shared_ptr<World>> worlds;
uint64_t next_id = 1;

std::shared_ptr<World> world_of(const NcclId& id, int size) {
  uint64_t key = 0;
  std::memcpy(&key, id.internal, sizeof(key));
  const std::lock_guard lock(worlds_mutex);
  const auto found = worlds.find(key);
  if (found == worlds.end()) return nullptr;
  if (!found->second) found->second = std::make_shared<World>(size);
  return found->second;
}

// ---- groups ----

struct Submission {
  std::shared_ptr<Member> member;
  Collective collective;
  cudaStream_t stream;
};

thread_local int group_depth = 0;
thread_local std::vector<Submission> group_work;
thread_local std::vector<std::shared_ptr<Member>> group_starts;

int enqueue(const Submission& submission, int (*function)(void*)) {
  using Argument = std::pair<std::shared_ptr<Member>, Collective>;
  auto* argument = new Argument(submission.member, submission.collective);
  const auto release = [](void* memory) { delete static_cast<Argument*>(memory); };
  return heddle::fake::emulator().enqueue(submission.stream, function, argument, release) == cudaSuccess ? ncclSuccess : kUnhandledCudaError;
}

int arrive(void* argument) {
  auto& [member, collective] = *static_cast<std::pair<std::shared_ptr<Member>, Collective>*>(argument);
  member->arrive(collective);
  return 0;
}
int finish(void* argument) {
  static_cast<std::pair<std::shared_ptr<Member>, Collective>*>(argument)->first->finish();
  return 0;
}

// The first collective of every communicator, then the second, ...: one thread may hold several ranks.
int submit_group() {
  std::vector<Submission> left = std::move(group_work);
  group_work.clear();
  while (!left.empty()) {
    std::vector<Submission> round, later;
    std::set<Member*> taken;
    for (Submission& submission : left) (taken.insert(submission.member.get()).second ? round : later).push_back(std::move(submission));
    for (const auto function : {arrive, finish}) {
      for (const Submission& submission : round) {
        if (const int status = enqueue(submission, function)) return status;
      }
    }
    left = std::move(later);
  }
  return ncclSuccess;
}

int start_group() {
  std::vector<std::shared_ptr<Member>> starts = std::move(group_starts);
  group_starts.clear();
  for (const auto& member : starts) {
    if (!member->wait_for_all()) return kInvalidUsage;
  }
  return ncclSuccess;
}

// ---- collectives ----

size_t size_of_type(int type) {
  switch (type) {
    case ncclInt8: return 1;
    case ncclFloat16: case ncclBfloat16: return 2;
    case ncclInt32: case ncclFloat32: return 4;
    case ncclInt64: return 8;
    default: return 0;
  }
}

bool on_device(const void* address, size_t bytes, int device) { return bytes == 0 || heddle::fake::emulator().device_of(address, bytes) == device; }

int submit(NcclComm comm, Collective collective, cudaStream_t stream) {
  return call([&] {
    if (!comm || !comm->member) return kInvalidArgument;
    Member& member = *comm->member;
    if (!member.ready()) return kInvalidUsage;        // not started, or aborted
    const size_t bytes = collective.count * size_of_type(collective.type);
    const auto size = static_cast<size_t>(member.size());
    const bool scatter = collective.kind == Kind::reduce_scatter;
    const bool gather = collective.kind == Kind::all_gather;
    if (size_of_type(collective.type) == 0 || collective.op < ncclSum || collective.op > ncclAvg) return kInvalidArgument;
    if (collective.root < 0 || collective.root >= member.size()) return kInvalidArgument;
    if (!on_device(collective.send, scatter ? bytes * size : bytes, member.device())) return kInvalidArgument;
    if (!on_device(collective.receive, gather ? bytes * size : bytes, member.device())) return kInvalidArgument;
    group_work.push_back({comm->member, collective, stream});
    return group_depth > 0 ? static_cast<int>(ncclSuccess) : submit_group();
  });
}

// A send and a receive of one group are one step. Of a world all ranks take part, as they do in heddle; real NCCL asks for less.
int submit_transfer(NcclComm comm, const Collective& half, cudaStream_t stream) {
  return call([&] {
    if (!comm || !comm->member) return kInvalidArgument;
    Member& member = *comm->member;
    if (!member.ready()) return kInvalidUsage;
    const size_t bytes = half.count * size_of_type(half.type);
    if (size_of_type(half.type) == 0 || half.root >= member.size() || half.from >= member.size()) return kInvalidArgument;
    if (half.root < 0 && half.from < 0) return kInvalidArgument;
    if (!on_device(half.root >= 0 ? half.send : half.receive, bytes, member.device())) return kInvalidArgument;
    for (Submission& other : group_work) {
      Collective& whole = other.collective;
      if (other.member != comm->member || whole.kind != Kind::send_receive || whole.count != half.count || whole.type != half.type) continue;
      if (half.root >= 0 ? whole.root >= 0 : whole.from >= 0) continue;
      if (half.root >= 0) {
        whole.send = half.send;
        whole.root = half.root;
      } else {
        whole.receive = half.receive;
        whole.from = half.from;
      }
      return static_cast<int>(ncclSuccess);
    }
    group_work.push_back({comm->member, half, stream});
    return group_depth > 0 ? static_cast<int>(ncclSuccess) : submit_group();
  });
}

int start(NcclComm* comm, int size, const NcclId& id, int rank, bool blocking) {
  return call([&] {
    *comm = nullptr;
    if (size < 1 || rank < 0 || rank >= size) return kInvalidArgument;
    const std::shared_ptr<World> world = world_of(id, size);
    if (!world || world->size() != size) return kInvalidArgument;
    auto member = world->join(rank, heddle::fake::emulator().current_device());
    if (!member) return kInvalidUsage;
    *comm = new NcclCommOpaque{member};
    if (!blocking) return static_cast<int>(ncclInProgress);
    group_starts.push_back(std::move(member));
    if (group_depth > 0) return static_cast<int>(ncclSuccess);
    const int status = start_group();
    if (status != ncclSuccess) {
      delete *comm;
      *comm = nullptr;
    }
    return status;
  });
}

std::mutex memory_mutex;
std::set<void*> own_memory;                           // of ncclMemAlloc: what a window may be made of

}  // namespace

#pragma GCC visibility push(default)
extern "C" {

int ncclGetVersion(int* version) {
  *version = static_cast<int>(heddle::fake::setting("HEDDLE_FAKE_NCCL_VERSION", 23007));
  return ncclSuccess;
}

const char* ncclGetErrorString(int status) {
  switch (status) {
    case ncclSuccess: return "no error";
    case kUnhandledCudaError: return "unhandled cuda error (run with NCCL_DEBUG=INFO for details)";
    case kSystemError: return "unhandled system error (run with NCCL_DEBUG=INFO for details)";
    case kInternalError: return "internal error - please report this issue to the NCCL developers";
    case kInvalidArgument: return "invalid argument (run with NCCL_DEBUG=WARN for details)";
    case kInvalidUsage: return "invalid usage (run with NCCL_DEBUG=WARN for details)";
    case kRemoteError: return "remote process exited or there was a network error";
    case ncclInProgress: return "NCCL operation in progress";
    default: return "unknown result code";
  }
}
const char* ncclGetLastError(NcclComm) { return ""; }

int ncclGetUniqueId(NcclId* id) {
  return call([&] {
    const std::lock_guard lock(worlds_mutex);
    *id = {};
    std::memcpy(id->internal, &next_id, sizeof(next_id));
    worlds[next_id++] = nullptr;
    return ncclSuccess;
  });
}

int ncclCommInitRank(NcclComm* comm, int size, NcclId id, int rank) { return start(comm, size, id, rank, true); }
int ncclCommInitRankConfig(NcclComm* comm, int size, NcclId id, int rank, NcclConfig* config) {
  if (config && config->magic != 0xcafebeef) return kInvalidArgument;
  return start(comm, size, id, rank, !config || config->blocking != 0);
}

int ncclCommGetAsyncError(NcclComm comm, int* status) {
  return call([&] {
    if (!comm || !comm->member) return kInvalidArgument;
    Member& member = *comm->member;
    const long wanted = heddle::fake::setting("HEDDLE_FAKE_NCCL_ASYNC_ERROR", 0);
    *status = wanted          ? static_cast<int>(wanted)
              : member.refused() ? kInvalidUsage
              : member.broken()  ? kRemoteError
              : member.started() ? static_cast<int>(ncclSuccess)
                                 : static_cast<int>(ncclInProgress);
    return static_cast<int>(ncclSuccess);
  });
}

int ncclCommDestroy(NcclComm comm) {
  return call([&] {
    if (!comm) return kInvalidArgument;
    delete comm;
    return static_cast<int>(ncclSuccess);
  });
}
int ncclCommAbort(NcclComm comm) {
  return call([&] {
    if (!comm) return kInvalidArgument;
    comm->member->abort();
    delete comm;
    return static_cast<int>(ncclSuccess);
  });
}

int ncclGroupStart() {
  ++group_depth;
  return ncclSuccess;
}
int ncclGroupEnd() {
  return call([&] {
    if (group_depth == 0) return kInvalidUsage;
    if (--group_depth > 0) return static_cast<int>(ncclSuccess);
    const int status = start_group();
    return status == ncclSuccess ? submit_group() : status;
  });
}

int ncclAllReduce(const void* send, void* receive, size_t count, int type, int op, NcclComm comm, cudaStream_t stream) {
  return submit(comm, {Kind::all_reduce, send, receive, count, type, op, 0}, stream);
}
int ncclReduceScatter(const void* send, void* receive, size_t count, int type, int op, NcclComm comm, cudaStream_t stream) {
  return submit(comm, {Kind::reduce_scatter, send, receive, count, type, op, 0}, stream);
}
int ncclAllGather(const void* send, void* receive, size_t count, int type, NcclComm comm, cudaStream_t stream) {
  return submit(comm, {Kind::all_gather, send, receive, count, type, ncclSum, 0}, stream);
}
int ncclBroadcast(const void* send, void* receive, size_t count, int type, int root, NcclComm comm, cudaStream_t stream) {
  return submit(comm, {Kind::broadcast, send, receive, count, type, ncclSum, root}, stream);
}

int ncclSend(const void* send, size_t count, int type, int peer, NcclComm comm, cudaStream_t stream) {
  return submit_transfer(comm, {Kind::send_receive, send, nullptr, count, type, ncclSum, peer, -1}, stream);
}
int ncclRecv(void* receive, size_t count, int type, int peer, NcclComm comm, cudaStream_t stream) {
  return submit_transfer(comm, {Kind::send_receive, nullptr, receive, count, type, ncclSum, -1, peer}, stream);
}

int ncclMemAlloc(void** memory, size_t bytes) {
  return call([&] {
    if (heddle::fake::emulator().allocate(memory, bytes) != cudaSuccess) return kUnhandledCudaError;
    const std::lock_guard lock(memory_mutex);
    own_memory.insert(*memory);
    return static_cast<int>(ncclSuccess);
  });
}
int ncclMemFree(void* memory) {
  return call([&] {
    const std::lock_guard lock(memory_mutex);
    if (memory && own_memory.erase(memory) == 0) return kInvalidArgument;
    return heddle::fake::emulator().free(memory) == cudaSuccess ? static_cast<int>(ncclSuccess) : kUnhandledCudaError;
  });
}

int ncclCommRegister(const NcclComm comm, void* memory, size_t bytes, void** handle) {
  return call([&] {
    if (!comm || !on_device(memory, bytes, comm->member->device())) return kInvalidArgument;
    *handle = new NcclWindowOpaque{memory};
    return static_cast<int>(ncclSuccess);
  });
}

int ncclCommWindowRegister(NcclComm comm, void* memory, size_t bytes, NcclWindow* window, int) {
  return call([&] {
    if (!comm || !on_device(memory, bytes, comm->member->device())) return kInvalidArgument;
    const std::lock_guard lock(memory_mutex);
    if (own_memory.count(memory) == 0) return kInvalidArgument;
    *window = new NcclWindowOpaque{memory};
    return static_cast<int>(ncclSuccess);
  });
}
int ncclCommWindowDeregister(NcclComm, NcclWindow window) {
  delete window;
  return ncclSuccess;
}
int ncclCommDeregister(const NcclComm comm, void* handle) { return ncclCommWindowDeregister(comm, static_cast<NcclWindow>(handle)); }

}  // extern "C"
#pragma GCC visibility pop

#define X(name, result, arguments) static_assert(std::is_same_v<decltype(NcclFunctions::name), decltype(&::name)>, #name);
HEDDLE_NCCL_FUNCTIONS(X) HEDDLE_NCCL_OPTIONAL_FUNCTIONS(X)
#undef X
