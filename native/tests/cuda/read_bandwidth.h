// What the GPU's memory gives to a kernel that only reads: the ceiling beside which timings are printed.
#pragma once
#include "cuda/device.h"

namespace heddle::test {

// Bytes per second, the median of several passes over 2 GB.
double read_bandwidth(const cuda::Device& device);

}  // namespace heddle::test
