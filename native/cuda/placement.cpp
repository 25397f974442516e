#include "cuda/placement.h"

#include <numeric>
#include <set>

#include "core/error.h"

namespace heddle::cuda {

namespace {

void expect_device(int device, int device_count) {
  if (device >= 0 && device < device_count) return;
  throw Error(ErrorCode::invalid_argument, "openGroup: devices: expected numbers of GPUs below " + std::to_string(device_count) +
                                               ", got " + std::to_string(device));
}

std::vector<int> first_devices(int size, int device_count) {
  if (size > device_count) {
    throw Error(ErrorCode::unavailable, "openGroup: expected " + std::to_string(size) + " GPUs, found " + std::to_string(device_count) +
                                            "; several ranks on one GPU: devices: [0, 0, …]");
  }
  std::vector<int> devices(static_cast<size_t>(size));
  std::iota(devices.begin(), devices.end(), 0);
  return devices;
}

[[noreturn]] void unavailable(const std::string& text) { throw Error(ErrorCode::unavailable, "openGroup: communicator " + text); }

CommunicatorPlan only_nccl(const Machine& machine) {
  if (!machine.nccl) unavailable("nccl: expected NCCL, got: " + machine.why_no_nccl);
  return {.local = false, .nccl = true};
}

CommunicatorPlan only_local(const Machine& machine) {
  if (!machine.peers) unavailable("local: " + machine.why_no_peers);
  return {.local = true, .nccl = false};
}

}  // namespace

std::vector<int> place_ranks(const RankOptions& options, int device_count) {
  if (options.devices.empty()) return first_devices(options.size, device_count);
  if (options.devices.size() != static_cast<size_t>(options.size)) {
    throw Error(ErrorCode::invalid_argument, "openGroup: devices: expected one for each of " + std::to_string(options.size) +
                                                 " ranks, got " + std::to_string(options.devices.size()));
  }
  for (const int device : options.devices) expect_device(device, device_count);
  return options.devices;
}

bool share_gpus(const std::vector<int>& devices) {
  return std::set<int>(devices.begin(), devices.end()).size() < devices.size();
}

std::string CommunicatorPlan::text() const {
  if (local && nccl) return "local, nccl for large messages";
  return local ? "local" : "nccl";
}

CommunicatorPlan choose_communicator(CommunicatorChoice wanted, const std::vector<int>& devices, const Machine& machine) {
  const bool shared = share_gpus(devices);
  switch (wanted) {
    case CommunicatorChoice::local: return only_local(machine);
    case CommunicatorChoice::nccl:
      if (!shared) return only_nccl(machine);
      throw Error(ErrorCode::invalid_argument,
                  "openGroup: communicator nccl: expected a GPU of its own for every rank, since NCCL refuses several ranks on one GPU, "
                  "got devices that repeat; use communicator 'local'");
    case CommunicatorChoice::automatic: break;
  }
  if (devices.size() == 1 || shared) return only_local(machine);
  if (machine.peers) return {.local = true, .nccl = machine.nccl};
  if (machine.nccl) return {.local = false, .nccl = true};
  unavailable("auto: " + machine.why_no_peers + ", and NCCL is not there: " + machine.why_no_nccl);
}

}  // namespace heddle::cuda
