// Devices, settings, errors and counters.
#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "host_state.h"

namespace heddle::emulator {
namespace {

constexpr int kSmCount = 132;                            // of an H200
constexpr size_t kSharedPerBlock = 48 * 1024;
constexpr size_t kL2Bytes = 1u << 20;                    // small: memory of its size is overwritten to time something cold
constexpr size_t kGiB = size_t{1} << 30;

struct Device {
  std::atomic<cudaError_t> error{cudaSuccess};
  std::mutex mutex;
  std::set<int> peers;                                 // whose memory it may use
};

std::array<Device, kMaxDevices>& devices() {
  static auto* all = new std::array<Device, kMaxDevices>();  // used until the process ends
  return *all;
}

thread_local int device_of_thread = 0;
thread_local cudaError_t error_of_thread = cudaSuccess;

int capability() { return static_cast<int>(setting("HEDDLE_EMULATOR_COMPUTE_CAPABILITY", 90)); }
bool exists(int device) { return device >= 0 && device < device_count(); }

size_t shared_per_sm() {
  switch (capability()) {
    case 80: return 164 * 1024;
    case 86: case 89: case 120: return 100 * 1024;
    default: return 228 * 1024;
  }
}

struct Text {
  cudaError_t error;
  const char* name;
  const char* text;
};
#define HEDDLE_ERROR(name, text) {name, #name, text}
constexpr Text kTexts[] = {
  HEDDLE_ERROR(cudaSuccess, "no error"),
  HEDDLE_ERROR(cudaErrorInvalidValue, "invalid argument"),
  HEDDLE_ERROR(cudaErrorMemoryAllocation, "out of memory"),
  HEDDLE_ERROR(cudaErrorInitializationError, "initialization error"),
  HEDDLE_ERROR(cudaErrorInvalidConfiguration, "invalid configuration argument"),
  HEDDLE_ERROR(cudaErrorInvalidHostPointer, "invalid host pointer"),
  HEDDLE_ERROR(cudaErrorInvalidDevicePointer, "invalid device pointer"),
  HEDDLE_ERROR(cudaErrorInvalidMemcpyDirection, "invalid copy direction for memcpy"),
  HEDDLE_ERROR(cudaErrorInsufficientDriver, "CUDA driver version is insufficient for CUDA runtime version"),
  HEDDLE_ERROR(cudaErrorInvalidDeviceFunction, "invalid device function"),
  HEDDLE_ERROR(cudaErrorNoDevice, "no CUDA-capable device is detected"),
  HEDDLE_ERROR(cudaErrorInvalidDevice, "invalid device ordinal"),
  HEDDLE_ERROR(cudaErrorNoKernelImageForDevice, "no kernel image is available for execution on the device"),
  HEDDLE_ERROR(cudaErrorPeerAccessUnsupported, "peer access is not supported between these two devices"),
  HEDDLE_ERROR(cudaErrorInvalidResourceHandle, "invalid resource handle"),
  HEDDLE_ERROR(cudaErrorIllegalState, "the operation cannot be performed in the present state"),
  HEDDLE_ERROR(cudaErrorNotReady, "device not ready"),
  HEDDLE_ERROR(cudaErrorIllegalAddress, "an illegal memory access was encountered"),
  HEDDLE_ERROR(cudaErrorLaunchOutOfResources, "too many resources requested for launch"),
  HEDDLE_ERROR(cudaErrorPeerAccessAlreadyEnabled, "peer access is already enabled"),
  HEDDLE_ERROR(cudaErrorPeerAccessNotEnabled, "peer access has not been enabled"),
  HEDDLE_ERROR(cudaErrorHostMemoryAlreadyRegistered, "part or all of the requested memory range is already mapped"),
  HEDDLE_ERROR(cudaErrorHostMemoryNotRegistered, "pointer does not correspond to a registered memory region"),
  HEDDLE_ERROR(cudaErrorLaunchFailure, "unspecified launch failure"),
  HEDDLE_ERROR(cudaErrorNotPermitted, "operation not permitted"),
  HEDDLE_ERROR(cudaErrorNotSupported, "operation not supported"),
  HEDDLE_ERROR(cudaErrorStreamCaptureUnsupported, "operation not permitted when stream is capturing"),
  HEDDLE_ERROR(cudaErrorStreamCaptureInvalidated, "operation failed due to a previous error during capture"),
  HEDDLE_ERROR(cudaErrorStreamCaptureMerge, "operation would result in a merge of separate capture sequences"),
  HEDDLE_ERROR(cudaErrorStreamCaptureUnmatched, "capture was not ended in the same stream as it began"),
  HEDDLE_ERROR(cudaErrorStreamCaptureUnjoined, "capturing stream has unjoined work"),
  HEDDLE_ERROR(cudaErrorStreamCaptureIsolation, "dependency created on uncaptured work in another stream"),
  HEDDLE_ERROR(cudaErrorStreamCaptureImplicit, "operation would make the legacy stream depend on a capturing blocking stream"),
  HEDDLE_ERROR(cudaErrorCapturedEvent, "operation not permitted on an event last recorded in a capturing stream"),
  HEDDLE_ERROR(cudaErrorStreamCaptureWrongThread, "attempt to terminate a thread-local capture sequence from another thread"),
  HEDDLE_ERROR(cudaErrorUnknown, "unknown error"),
};
#undef HEDDLE_ERROR

const Text* text_of(cudaError_t error) {
  const auto* found = std::find_if(std::begin(kTexts), std::end(kTexts), [&](const Text& text) { return text.error == error; });
  return found == std::end(kTexts) ? nullptr : found;
}

}  // namespace

long setting(const char* name, long otherwise) {
  const char* text = std::getenv(name);
  return text && *text ? std::strtol(text, nullptr, 10) : otherwise;
}

int device_count() { return std::clamp(static_cast<int>(setting("HEDDLE_EMULATOR_DEVICES", 1)), 0, kMaxDevices); }
bool asynchronous() { return setting("HEDDLE_EMULATOR_ASYNC", 0) != 0; }

Totals& totals() {
  static Totals all;
  return all;
}

Counters counters() {
  Counters now = {};
  now.streams = streams().count();
  now.events = events().count();
  now.graphs = graphs().count();
  now.graph_execs = graph_execs().count();
  count_memory(now);
  now.launches = totals().launches;
  now.graph_launches = totals().graph_launches;
  now.graph_captures = totals().graph_captures;
  return now;
}

int current_device() { return device_of_thread; }
cudaError_t broken(int device) { return devices()[static_cast<size_t>(device)].error; }
void break_device(int device, cudaError_t error) { devices()[static_cast<size_t>(device)].error = error; }
void repair_devices() {
  for (Device& device : devices()) device.error = cudaSuccess;
  error_of_thread = cudaSuccess;
}

cudaError_t remember(cudaError_t error) {
  if (error != cudaSuccess && error != cudaErrorNotReady) error_of_thread = error;
  return error;
}

}  // namespace heddle::emulator

using namespace heddle::emulator;

extern "C" {

const char* cudaGetErrorName(cudaError_t error) {
  const Text* text = text_of(error);
  return text ? text->name : "unrecognized error code";
}
const char* cudaGetErrorString(cudaError_t error) {
  const Text* text = text_of(error);
  return text ? text->text : "unrecognized error code";
}
cudaError_t cudaGetLastError() {
  const cudaError_t error = cudaPeekAtLastError();
  error_of_thread = cudaSuccess;
  return error;
}
cudaError_t cudaPeekAtLastError() {
  const cudaError_t error = broken(current_device());
  return error != cudaSuccess ? error : error_of_thread;
}

cudaError_t cudaDriverGetVersion(int* version) {
  *version = static_cast<int>(setting("HEDDLE_EMULATOR_DRIVER_VERSION", 13000));
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int* count) {
  *count = 0;
  int driver = 0;
  cudaDriverGetVersion(&driver);
  if (driver / 1000 < CUDART_VERSION / 1000) return remember(cudaErrorInsufficientDriver);
  *count = device_count();
  return remember(*count > 0 ? cudaSuccess : cudaErrorNoDevice);
}

cudaError_t cudaSetDevice(int device) {
  if (!exists(device)) return remember(device_count() > 0 ? cudaErrorInvalidDevice : cudaErrorNoDevice);
  device_of_thread = device;
  return remember(broken(device));
}
cudaError_t cudaInitDevice(int device, unsigned, unsigned) { return remember(exists(device) ? broken(device) : cudaErrorInvalidDevice); }
cudaError_t cudaGetDevice(int* device) {
  *device = current_device();
  return remember(device_count() > 0 ? cudaSuccess : cudaErrorNoDevice);
}
cudaError_t cudaSetDeviceFlags(unsigned) {
  return api([] { return cudaSuccess; });
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  if (!exists(device)) return remember(cudaErrorInvalidDevice);
  cudaDeviceProp p = {};
  std::snprintf(p.name, sizeof(p.name), "Emulated GPU");
  std::snprintf(p.uuid.bytes, sizeof(p.uuid.bytes), "emulated-gpu-%02d", device);
  p.totalGlobalMem = static_cast<size_t>(setting("HEDDLE_EMULATOR_MEMORY", kGiB));
  p.sharedMemPerBlock = kSharedPerBlock;
  p.regsPerBlock = p.regsPerMultiprocessor = 65536;
  p.warpSize = 32;
  p.maxThreadsPerBlock = p.maxThreadsDim[0] = p.maxThreadsDim[1] = 1024;
  p.maxThreadsDim[2] = 64;
  p.maxGridSize[0] = 0x7fffffff;
  p.maxGridSize[1] = p.maxGridSize[2] = 65535;
  p.totalConstMem = 65536;
  p.major = capability() / 10;
  p.minor = capability() % 10;
  p.multiProcessorCount = kSmCount;
  p.canMapHostMemory = p.concurrentKernels = p.unifiedAddressing = p.streamPrioritiesSupported = p.managedMemory = 1;
  p.cooperativeLaunch = p.memoryPoolsSupported = 1;
  p.pciBusID = device + 1;
  p.asyncEngineCount = 3;
  p.memoryBusWidth = 6144;
  p.l2CacheSize = static_cast<int>(kL2Bytes);
  p.persistingL2CacheMaxSize = static_cast<int>(kL2Bytes / 8 * 5);
  p.maxThreadsPerMultiProcessor = 2048;
  p.sharedMemPerMultiprocessor = shared_per_sm();
  p.sharedMemPerBlockOptin = shared_per_sm() - 1024;
  p.reservedSharedMemPerBlock = 1024;
  p.maxBlocksPerMultiProcessor = 32;
  *properties = p;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  cudaDeviceProp p;
  if (const cudaError_t error = cudaGetDeviceProperties(&p, device)) return error;
  switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock: *value = p.maxThreadsPerBlock; break;
    case cudaDevAttrMaxBlockDimX: *value = p.maxThreadsDim[0]; break;
    case cudaDevAttrMaxBlockDimY: *value = p.maxThreadsDim[1]; break;
    case cudaDevAttrMaxBlockDimZ: *value = p.maxThreadsDim[2]; break;
    case cudaDevAttrMaxGridDimX: *value = p.maxGridSize[0]; break;
    case cudaDevAttrMaxGridDimY: *value = p.maxGridSize[1]; break;
    case cudaDevAttrMaxGridDimZ: *value = p.maxGridSize[2]; break;
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = static_cast<int>(p.sharedMemPerBlock); break;
    case cudaDevAttrTotalConstantMemory: *value = static_cast<int>(p.totalConstMem); break;
    case cudaDevAttrWarpSize: *value = p.warpSize; break;
    case cudaDevAttrMaxRegistersPerBlock: *value = p.regsPerBlock; break;
    case cudaDevAttrClockRate: *value = 1980000; break;
    case cudaDevAttrMultiProcessorCount: *value = p.multiProcessorCount; break;
    case cudaDevAttrIntegrated: *value = p.integrated; break;
    case cudaDevAttrCanMapHostMemory: *value = p.canMapHostMemory; break;
    case cudaDevAttrConcurrentKernels: *value = p.concurrentKernels; break;
    case cudaDevAttrPciBusId: *value = p.pciBusID; break;
    case cudaDevAttrPciDeviceId: *value = p.pciDeviceID; break;
    case cudaDevAttrMemoryClockRate: *value = 3201000; break;
    case cudaDevAttrGlobalMemoryBusWidth: *value = p.memoryBusWidth; break;
    case cudaDevAttrL2CacheSize: *value = p.l2CacheSize; break;
    case cudaDevAttrMaxThreadsPerMultiProcessor: *value = p.maxThreadsPerMultiProcessor; break;
    case cudaDevAttrUnifiedAddressing: *value = p.unifiedAddressing; break;
    case cudaDevAttrPciDomainId: *value = p.pciDomainID; break;
    case cudaDevAttrComputeCapabilityMajor: *value = p.major; break;
    case cudaDevAttrComputeCapabilityMinor: *value = p.minor; break;
    case cudaDevAttrStreamPrioritiesSupported: *value = p.streamPrioritiesSupported; break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = static_cast<int>(p.sharedMemPerMultiprocessor); break;
    case cudaDevAttrMaxRegistersPerMultiprocessor: *value = p.regsPerMultiprocessor; break;
    case cudaDevAttrManagedMemory: *value = p.managedMemory; break;
    case cudaDevAttrPageableMemoryAccess: *value = p.pageableMemoryAccess; break;
    case cudaDevAttrCooperativeLaunch: *value = p.cooperativeLaunch; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = static_cast<int>(p.sharedMemPerBlockOptin); break;
    case cudaDevAttrMaxBlocksPerMultiprocessor: *value = p.maxBlocksPerMultiProcessor; break;
    case cudaDevAttrReservedSharedMemoryPerBlock: *value = static_cast<int>(p.reservedSharedMemPerBlock); break;
    case cudaDevAttrMemoryPoolsSupported: *value = p.memoryPoolsSupported; break;
    default: return remember(cudaErrorInvalidValue);
  }
  return cudaSuccess;
}

cudaError_t cudaDeviceGetPCIBusId(char* text, int length, int device) {
  if (!exists(device) || length < 13) return remember(cudaErrorInvalidValue);
  std::snprintf(text, static_cast<size_t>(length), "0000:%02x:00.0", device + 1);
  return cudaSuccess;
}
cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  if (least) *least = 0;
  if (greatest) *greatest = -5;
  return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize() {
  return api([] {
    if (const cudaError_t error = expect_no_capture()) return error;
    wait_for_device(current_device());
    return broken(current_device());
  });
}

cudaError_t cudaDeviceReset() {
  break_device(current_device(), cudaSuccess);
  return cudaSuccess;
}

cudaError_t cudaDeviceCanAccessPeer(int* can, int device, int peer) {
  if (!exists(device) || !exists(peer)) return remember(cudaErrorInvalidDevice);
  *can = device != peer && setting("HEDDLE_EMULATOR_PEER_ACCESS", 1) != 0;
  return cudaSuccess;
}
cudaError_t cudaDeviceEnablePeerAccess(int peer, unsigned flags) {
  return api([&] {
    int can = 0;
    if (flags != 0) return cudaErrorInvalidValue;
    if (!exists(peer)) return cudaErrorInvalidDevice;
    cudaDeviceCanAccessPeer(&can, current_device(), peer);
    if (!can) return peer == current_device() ? cudaErrorInvalidDevice : cudaErrorPeerAccessUnsupported;
    Device& device = devices()[static_cast<size_t>(current_device())];
    const std::lock_guard lock(device.mutex);
    return device.peers.insert(peer).second ? cudaSuccess : cudaErrorPeerAccessAlreadyEnabled;
  });
}
cudaError_t cudaDeviceDisablePeerAccess(int peer) {
  return api([&] {
    Device& device = devices()[static_cast<size_t>(current_device())];
    const std::lock_guard lock(device.mutex);
    return device.peers.erase(peer) > 0 ? cudaSuccess : cudaErrorPeerAccessNotEnabled;
  });
}

}  // extern "C"
