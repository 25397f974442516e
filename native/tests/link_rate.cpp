// What NVIDIA's management library (NVML) says of NVLink on each GPU. Every line on stdin is answered by one line of JSON:
// {"gpus":[{"name":…,"links":[{"megabytesPerSecond":…,"version":…},…]},…]}, of the links that are up, or {"error":…}.
// The library is found at run time; HEDDLE_NVML_LIB names another file.
#include <dlfcn.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <stdexcept>
#include <string>

namespace {

// From the NVML API reference (docs.nvidia.com/deploy/nvml-api): nvmlFieldValue_t, "NvLink methods", "field value enums".
struct FieldValue {
  unsigned field;
  unsigned scope;                                     // the link, for fields that are asked by link
  long long timestamp;
  long long latency_microseconds;
  int type;                                           // nvmlValueType_t
  int status;                                         // nvmlReturn_t
  union {
    double double_value;
    unsigned unsigned_value;
    unsigned long unsigned_long_value;
    unsigned long long unsigned_long_long_value;
  } value;
};
static_assert(sizeof(FieldValue) == 40);

enum Field : unsigned {
  kSpeedOfLink0 = 84,                                 // NVML_FI_DEV_NVLINK_SPEED_MBPS_L0 to L5
  kSpeedCommon = 90,                                  // NVML_FI_DEV_NVLINK_SPEED_MBPS_COMMON
  kLinkCount = 91,                                    // NVML_FI_DEV_NVLINK_LINK_COUNT
  kSpeedOfLink6 = 132,                                // NVML_FI_DEV_NVLINK_SPEED_MBPS_L6 to L11
  kGetSpeed = 164,                                    // NVML_FI_DEV_NVLINK_GET_SPEED, by link; drivers for Hopper and newer
};
enum Status : int { kSuccess = 0 };
enum ValueType : int { kDouble = 0, kUnsigned = 1, kUnsignedLong = 2, kUnsignedLongLong = 3 };
constexpr unsigned kMostLinks = 18;                   // NVML_NVLINK_MAX_LINKS
constexpr int kLinkIsUp = 1;                          // NVML_FEATURE_ENABLED

using GpuHandle = struct GpuOpaque*;

struct Nvml {
  int (*init)() = nullptr;
  int (*shutdown)() = nullptr;
  const char* (*error_string)(int) = nullptr;
  int (*gpu_count)(unsigned*) = nullptr;
  int (*gpu_handle)(unsigned, GpuHandle*) = nullptr;
  int (*gpu_name)(GpuHandle, char*, unsigned) = nullptr;
  int (*link_state)(GpuHandle, unsigned, int*) = nullptr;
  int (*link_version)(GpuHandle, unsigned, unsigned*) = nullptr;
  int (*field_values)(GpuHandle, int, FieldValue*) = nullptr;
};

template <class Function>
void look_up(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  if (!function) throw std::runtime_error(std::string("NVML: symbol ") + name + " is missing");
}

Nvml load() {
  const char* given = std::getenv("HEDDLE_NVML_LIB");
  const std::string file = given && *given ? given : "libnvidia-ml.so.1";
  void* library = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    const char* reason = dlerror();
    throw std::runtime_error(std::string("NVML: ") + (reason ? reason : file + " cannot be opened"));
  }
  Nvml nvml;
  look_up(library, "nvmlInit_v2", nvml.init);
  look_up(library, "nvmlShutdown", nvml.shutdown);
  look_up(library, "nvmlErrorString", nvml.error_string);
  look_up(library, "nvmlDeviceGetCount_v2", nvml.gpu_count);
  look_up(library, "nvmlDeviceGetHandleByIndex_v2", nvml.gpu_handle);
  look_up(library, "nvmlDeviceGetName", nvml.gpu_name);
  look_up(library, "nvmlDeviceGetNvLinkState", nvml.link_state);
  look_up(library, "nvmlDeviceGetNvLinkVersion", nvml.link_version);
  look_up(library, "nvmlDeviceGetFieldValues", nvml.field_values);
  return nvml;
}

void expect(const Nvml& nvml, int status, const char* what) {
  if (status != kSuccess) throw std::runtime_error(std::string("NVML: ") + what + ": " + nvml.error_string(status));
}

// 0: this driver or GPU does not know the field.
uint64_t field(const Nvml& nvml, GpuHandle gpu, unsigned id, unsigned scope = 0) {
  FieldValue asked = {};
  asked.field = id;
  asked.scope = scope;
  if (nvml.field_values(gpu, 1, &asked) != kSuccess || asked.status != kSuccess) return 0;
  switch (asked.type) {
    case kDouble: return static_cast<uint64_t>(asked.value.double_value);
    case kUnsignedLong: return asked.value.unsigned_long_value;
    case kUnsignedLongLong: return asked.value.unsigned_long_long_value;
    default: return asked.value.unsigned_value;
  }
}

// MB/s (10^6) in one direction, as the driver counts: with the overhead of the encoding, where there is one.
uint64_t speed_of(const Nvml& nvml, GpuHandle gpu, unsigned link) {
  if (const uint64_t speed = field(nvml, gpu, kGetSpeed, link)) return speed;
  if (link < 12) {
    if (const uint64_t speed = field(nvml, gpu, link < 6 ? kSpeedOfLink0 + link : kSpeedOfLink6 + link - 6)) return speed;
  }
  return field(nvml, gpu, kSpeedCommon);
}

std::string quoted(const std::string& text) {
  std::string safe(1, '"');
  for (const char c : text) safe.push_back(c == '"' || c == '\\' ? '\'' : static_cast<unsigned char>(c) < ' ' ? ' ' : c);
  safe.push_back('"');
  return safe;
}

std::string describe_gpu(const Nvml& nvml, unsigned index) {
  GpuHandle gpu = nullptr;
  expect(nvml, nvml.gpu_handle(index, &gpu), "a GPU");
  char name[96] = {};
  expect(nvml, nvml.gpu_name(gpu, name, sizeof(name)), "the name of a GPU");
  const uint64_t count = field(nvml, gpu, kLinkCount);
  std::string links;
  for (unsigned link = 0; link < (count ? count : kMostLinks); ++link) {
    int state = 0;
    if (nvml.link_state(gpu, link, &state) != kSuccess || state != kLinkIsUp) continue;
    unsigned version = 0;
    if (nvml.link_version(gpu, link, &version) != kSuccess) version = 0;
    links.append(links.empty() ? "" : ",").append("{\"megabytesPerSecond\":").append(std::to_string(speed_of(nvml, gpu, link)));
    links.append(",\"version\":").append(std::to_string(version)).append("}");
  }
  return std::string("{\"name\":").append(quoted(name)).append(",\"links\":[").append(links).append("]}");
}

std::string describe_gpus() {
  const Nvml nvml = load();
  expect(nvml, nvml.init(), "starting");
  unsigned count = 0;
  expect(nvml, nvml.gpu_count(&count), "counting GPUs");
  std::string gpus;
  for (unsigned index = 0; index < count; ++index) gpus.append(index ? "," : "").append(describe_gpu(nvml, index));
  nvml.shutdown();
  return std::string("{\"gpus\":[").append(gpus).append("]}");
}

}  // namespace

int main() {
  for (std::string line; std::getline(std::cin, line);) {
    std::string answer;
    try {
      answer = describe_gpus();
    } catch (const std::exception& error) {
      answer = std::string("{\"error\":").append(quoted(error.what())).append("}");
    }
    std::puts(answer.c_str());
    std::fflush(stdout);
  }
  return 0;
}
