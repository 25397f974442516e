#include "addon/describe_cuda.h"

namespace heddle::addon {

namespace {

Napi::Object describe(Napi::Env env, const DeviceInfo& device) {
  const auto object = Napi::Object::New(env);
  object.Set("device", Napi::Number::New(env, device.ordinal));
  object.Set("name", device.name);
  object.Set("computeCapability", device.compute_capability);
  object.Set("memoryBytes", Napi::Number::New(env, static_cast<double>(device.memory_bytes)));
  return object;
}

Napi::Object describe(Napi::Env env, const LibraryInfo& library) {
  const auto object = Napi::Object::New(env);
  object.Set("name", library.name);
  if (!library.problem.empty()) object.Set("problem", library.problem);
  if (library.version.empty()) return object;
  object.Set("version", library.version);
  object.Set("path", library.path);
  return object;
}

template <class Item>
Napi::Array list_of(Napi::Env env, const std::vector<Item>& items) {
  const auto list = Napi::Array::New(env, items.size());
  for (uint32_t i = 0; i < items.size(); ++i) list.Set(i, describe(env, items[i]));
  return list;
}

}  // namespace

Napi::Object describe_cuda(Napi::Env env, const CudaInfo& info) {
  const auto object = Napi::Object::New(env);
  object.Set("usable", Napi::Boolean::New(env, info.reason.empty()));
  object.Set("reason", info.reason);
  object.Set("build", info.build);
  object.Set("backend", info.path);
  object.Set("driver", info.found.driver);
  object.Set("runtime", info.found.runtime);
  object.Set("devices", list_of(env, info.found.devices));
  object.Set("libraries", list_of(env, info.found.libraries));
  return object;
}

}  // namespace heddle::addon
