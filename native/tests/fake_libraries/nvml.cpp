// Stands in for libnvidia-ml: the few functions that link_rate.cpp looks up, with their real names, for GPUs that the environment describes.
//
//   HEDDLE_FAKE_NVML_GPUS     2
//   HEDDLE_FAKE_NVML_LINKS    18; 0: GPUs without NVLink
//   HEDDLE_FAKE_NVML_DOWN     links of each GPU that are not up, counted from the last (0)
//   HEDDLE_FAKE_NVML_MBPS     26562
//   HEDDLE_FAKE_NVML_FIELDS   by-link (the newest field), numbered (a field of its own for links 0 to 11, and the common one), none
//   HEDDLE_FAKE_NVML_FAIL     a status that nvmlInit_v2 gives
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

namespace {

constexpr int kSuccess = 0, kInvalidArgument = 2, kNotSupported = 3;

unsigned setting(const char* name, unsigned otherwise) {
  const char* value = std::getenv(name);
  return value && *value ? static_cast<unsigned>(std::strtoul(value, nullptr, 10)) : otherwise;
}

unsigned link_count() { return setting("HEDDLE_FAKE_NVML_LINKS", 18); }

struct FieldValue {
  unsigned field;
  unsigned scope;
  long long timestamp;
  long long latency_microseconds;
  int type;
  int status;
  unsigned long long value;
};

// Whether the field is one of those that say how fast a link is.
bool is_speed(const FieldValue& asked) {
  const char* fields = std::getenv("HEDDLE_FAKE_NVML_FIELDS");
  const std::string known = fields && *fields ? fields : "by-link";
  if (known == "by-link") return asked.field == 164 && asked.scope < link_count();
  if (known != "numbered") return false;
  return (asked.field >= 84 && asked.field <= 90) || (asked.field >= 132 && asked.field <= 137);
}

}  // namespace

#pragma GCC visibility push(default)
extern "C" {

int nvmlInit_v2();
int nvmlShutdown();
const char* nvmlErrorString(int);
int nvmlDeviceGetCount_v2(unsigned*);
int nvmlDeviceGetHandleByIndex_v2(unsigned, void**);
int nvmlDeviceGetName(void*, char*, unsigned);
int nvmlDeviceGetNvLinkState(void*, unsigned, int*);
int nvmlDeviceGetNvLinkVersion(void*, unsigned, unsigned*);
int nvmlDeviceGetFieldValues(void*, int, FieldValue*);

int nvmlInit_v2() { return static_cast<int>(setting("HEDDLE_FAKE_NVML_FAIL", kSuccess)); }
int nvmlShutdown() { return kSuccess; }
const char* nvmlErrorString(int status) { return status == 9 ? "Driver Not Loaded" : "Unknown Error"; }
int nvmlDeviceGetCount_v2(unsigned* count) {
  *count = setting("HEDDLE_FAKE_NVML_GPUS", 2);
  return kSuccess;
}
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void** gpu) {
  static char gpus[64];
  if (index >= setting("HEDDLE_FAKE_NVML_GPUS", 2)) return kInvalidArgument;
  *gpu = gpus + index;
  return kSuccess;
}
int nvmlDeviceGetName(void*, char* name, unsigned length) {
  std::snprintf(name, length, "Stand-in GPU");
  return kSuccess;
}
int nvmlDeviceGetNvLinkState(void*, unsigned link, int* state) {
  if (link >= link_count()) return link_count() == 0 ? kNotSupported : kInvalidArgument;
  *state = link + setting("HEDDLE_FAKE_NVML_DOWN", 0) < link_count() ? 1 : 0;
  return kSuccess;
}
int nvmlDeviceGetNvLinkVersion(void*, unsigned, unsigned* version) {
  *version = 6;
  return kSuccess;
}
int nvmlDeviceGetFieldValues(void*, int count, FieldValue* values) {
  for (int i = 0; i < count; ++i) {
    FieldValue& asked = values[i];
    asked.type = 1;
    asked.status = kSuccess;
    asked.value = 0;
    unsigned answer = 0;
    if (asked.field == 91) {
      answer = link_count();
    } else if (is_speed(asked)) {
      answer = setting("HEDDLE_FAKE_NVML_MBPS", 26562);
    } else {
      asked.status = kNotSupported;
    }
    std::memcpy(&asked.value, &answer, sizeof(answer));
  }
  return kSuccess;
}

}  // extern "C"
#pragma GCC visibility pop
