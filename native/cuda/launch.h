// The one way to start a kernel: every launch is checked, and may begin before its predecessor has ended.
#pragma once
#include <cuda_runtime.h>

#include <cstddef>

#include "cuda/runtime.h"

namespace heddle::cuda {

struct Launch {
  dim3 grid = dim3(1);
  dim3 block = dim3(1);
  size_t shared_bytes = 0;                            // dynamic; above 48 KB the kernel's limit is raised
  cudaStream_t stream = nullptr;
  // Programmatic dependent launch: the kernel calls ptx::dependency_wait() before it touches what earlier kernels of the stream read
  // or write. A kernel that never calls it must not be launched so.
  bool dependent = false;
};

// Throws device_failed where the launch is refused; `where` names the operation. Parameters are converted to those of the kernel.
template <class... Parameters, class... Arguments>
void launch(const char* where, const Launch& spec, void (*kernel)(Parameters...), Arguments&&... arguments) {
  static_assert(sizeof...(Parameters) == sizeof...(Arguments));
#if defined(HEDDLE_CUDA_EMULATED)
  check(emulator::launch_kernel(where, spec.grid, spec.block, spec.shared_bytes, spec.stream, kernel, static_cast<Parameters>(arguments)...),
        where);
#else
  if (spec.shared_bytes > 48 * 1024) allow_shared_bytes(reinterpret_cast<const void*>(kernel), spec.shared_bytes, where);
  cudaLaunchConfig_t config = {};
  config.gridDim = spec.grid;
  config.blockDim = spec.block;
  config.dynamicSmemBytes = spec.shared_bytes;
  config.stream = spec.stream;
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  config.attrs = &attribute;
  config.numAttrs = spec.dependent ? 1 : 0;
  check(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...), where);
#endif
}

// Dynamic shared memory of a kernel, 16-byte aligned.
#if defined(HEDDLE_CUDA_EMULATED)
#define HEDDLE_DYNAMIC_SHARED(name) unsigned char* name = emulator::dynamic_shared()
#else
#define HEDDLE_DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
#endif

}  // namespace heddle::cuda
