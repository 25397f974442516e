// The one symbol of the CUDA backend's library, and the table behind it. Rule: no exception leaves a function of the table.
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <new>
#include <utility>

#include "comm/nccl/nccl.h"
#include "core/backend_abi.h"
#include "core/error.h"
#include "cuda/cuda_backend.h"
#include "cuda/device_communicator.h"
#include "cuda/discovery.h"
#include "cuda/local_communicator.h"
#include "cuda/placement.h"
#include "cuda/runtime.h"

namespace heddle::cuda {

namespace {

using Ranks = std::vector<std::unique_ptr<DeviceCommunicator>>;

Machine look_at(const std::vector<int>& devices, bool needs_nccl) {
  Machine machine;
  machine.peers = reach_each_other(devices, machine.why_no_peers);
  machine.nccl = needs_nccl && nccl(machine.why_no_nccl) != nullptr;
  return machine;
}

Ranks create_communicators(const CommunicatorPlan& plan, const HostCommunicators& host, const RankOptions& options) {
  std::string why_not;
  Ranks large;
  if (plan.nccl) large = comm::create_nccl(*nccl(why_not), host, note_nccl, options.reproducible);
  return plan.local ? create_local(host, std::move(large), {options.collective_timeout, options.reproducible}) : std::move(large);
}

// NCCL is not opened where it cannot be of use.
bool may_use_nccl(CommunicatorChoice wanted, const std::vector<int>& devices) {
  if (wanted == CommunicatorChoice::nccl) return !share_gpus(devices);
  return wanted == CommunicatorChoice::automatic && devices.size() > 1 && !share_gpus(devices);
}

OpenedRanks open(const RankOptions& options, const HostCommunicators& host) {
  OpenedRanks opened;
  opened.devices = place_ranks(options, device_count());
  const Machine machine = look_at(opened.devices, may_use_nccl(options.communicator, opened.devices));
  const CommunicatorPlan plan = choose_communicator(options.communicator, opened.devices, machine);
  opened.communicator = plan.text();
  std::vector<DeviceCommunicator*> communicators;
  for (std::unique_ptr<DeviceCommunicator>& communicator : create_communicators(plan, host, options)) {
    communicators.push_back(communicator.get());
    opened.communicators.push_back(std::move(communicator));
  }
  opened.create_backend = [devices = opened.devices, communicators, dtype = options.dtype, reproducible = options.reproducible](int rank) {
    const auto index = static_cast<size_t>(rank);
    return create_backend(devices[index], rank, dtype, *communicators[index], cublaslt(), reproducible);
  };
  return opened;
}

template <class Body>
int guarded(std::string& text, const Body& body) noexcept {
  try {
    body();
    return 0;
  } catch (const Error& error) {
    text = error.what();
    return backend_code_of(error.code());
  } catch (const std::bad_alloc&) {
    return backend_code_of(ErrorCode::out_of_memory);
  } catch (const std::exception& error) {
    text = error.what();
  } catch (...) {
    text = "CUDA backend: unknown failure";
  }
  return backend_code_of(ErrorCode::device_failed);
}

int describe_guarded(bool everything, BackendInfo& info, std::string& text) noexcept {
  return guarded(text, [&] { info = describe(everything); });
}

int memory_guarded(int ordinal, DeviceMemory& memory, std::string& text) noexcept {
  return guarded(text, [&] { memory = memory_of(ordinal); });
}

int open_guarded(const RankOptions& options, const HostCommunicators& host, OpenedRanks& ranks, std::string& text) noexcept {
  return guarded(text, [&] { ranks = open(options, host); });
}

constexpr BackendFunctions kFunctions = {describe_guarded, memory_guarded, open_guarded};

void copy_text(const std::string& text, char* error, size_t error_size) {
  if (!error || error_size == 0) return;
  const size_t length = std::min(text.size(), error_size - 1);
  std::memcpy(error, text.data(), length);
  error[length] = 0;
}

Readiness shake_hands(const heddle_backend_host& host) {
  if (host.abi_version != HEDDLE_BACKEND_ABI) {
    return {HEDDLE_BACKEND_MISMATCH, "expected an addon of ABI " + std::to_string(HEDDLE_BACKEND_ABI) + ", got one of ABI " +
                                         std::to_string(host.abi_version)};
  }
  if (std::strcmp(host.identity, HEDDLE_BUILD_IDENTITY) != 0) {
    return {HEDDLE_BACKEND_MISMATCH,
            std::string("the CUDA backend is of another build: it is ") + HEDDLE_BUILD_IDENTITY + "; the addon is " + host.identity};
  }
  return {};
}

Readiness enter(const heddle_backend_host& host) {
  const Readiness agreed = shake_hands(host);
  if (agreed.code != HEDDLE_BACKEND_READY) return agreed;
  set_environment();
  std::vector<std::string> folders;
  for (const char* const* folder = host.folders; folder && *folder; ++folder) folders.emplace_back(*folder);
  return prepare(folders);
}

}  // namespace

}  // namespace heddle::cuda

extern "C" __attribute__((visibility("default"))) int HEDDLE_BACKEND_ENTRY(const heddle_backend_host* host,
                                                                           heddle_backend_library* library, char* error,
                                                                           size_t error_size) {
  using namespace heddle::cuda;
  try {
    const Readiness readiness = enter(*host);
    if (readiness.code == HEDDLE_BACKEND_READY) *library = {HEDDLE_BACKEND_ABI, &kFunctions};
    copy_text(readiness.text, error, error_size);
    return readiness.code;
  } catch (...) {
    copy_text("CUDA backend: could not start", error, error_size);
    return HEDDLE_BACKEND_FAILED;
  }
}
