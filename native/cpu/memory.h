// Memory of a rank on the CPU. Rule: large buffers are anonymous maps that nothing touches here, so that the thread
// that fills a page places it.
#pragma once
#include <cstddef>

#include "core/tensor.h"

namespace heddle::cpu {

// Zeroed, 64-byte aligned, huge pages where it is large enough for one; throws out_of_memory with the size.
Buffer allocate(size_t bytes);

}  // namespace heddle::cpu
