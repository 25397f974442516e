// Makes groups of the device that was asked for: the one place that knows every backend and communicator.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/group.h"

namespace heddle {

struct GroupOptions {
  int size = 1;
  std::string device = "cpu";                         // cpu, cuda
  std::vector<int> devices;                           // empty: the first ones
  DType dtype = DType::float32;
};

// Throws invalid_argument, unavailable; the rest of opening completes `ticket`.
std::shared_ptr<RankGroup> open_group(const GroupOptions& options, int64_t ticket, OnCompletion on_completion);

// What the CPU kernels run with: "avx512bf16". Throws as opening a group would where HEDDLE_CPU_ISA names no usable
// level.
std::string cpu_isa_name();

}  // namespace heddle
