// What is known of CUDA on this machine, as a JavaScript object (CudaInfo in lib/native.ts).
#pragma once
#include "addon/napi_setup.h"
#include "factory.h"

namespace heddle::addon {

Napi::Object describe_cuda(Napi::Env env, const CudaInfo& info);

}  // namespace heddle::addon
