// What the addon exports, in one manifest.
// Rule: no C++ exception leaves an export; each becomes a JavaScript error with a code.
#include <new>
#include <stdexcept>
#include <utility>
#include <vector>

#include "addon/client.h"
#include "addon/describe_cuda.h"
#include "addon/napi_setup.h"
#include "addon/parse.h"
#include "addon/read.h"
#include "core/error.h"
#include "core/wait.h"
#include "factory.h"

namespace heddle::addon {

namespace {

using Arguments = const Napi::CallbackInfo&;

// Submits under `ticket` and keeps the process alive until it completes.
template <typename Send>
Napi::Value submit(Arguments info, const GroupHandle& handle, Send&& send) {
  Mailbox& mailbox = handle.client->mailbox();
  mailbox.expect();
  try {
    send(*handle.group);
  } catch (...) {
    mailbox.unexpect();
    throw;
  }
  return info.Env().Undefined();
}

Napi::Value initialize(Arguments info) {
  if (!info[0].IsFunction()) refuse("initialize: onCompletion", "a function", info[0]);
  return wrap(info.Env(), Client::create(info[0].As<Napi::Function>()));
}

// openGroup(mailbox, ticket, options)
Napi::Value open(Arguments info) {
  const std::shared_ptr<Client> client = unwrap_client(info[0]);
  const int64_t ticket = parse_ticket(info[1]);
  const GroupOptions options = parse_group_options(info[2]);
  OpenedGroup opened = client->open(options, ticket);
  return wrap(info.Env(), GroupHandle{client, opened.group, std::make_shared<const GroupPlacement>(std::move(opened.placement))});
}

// createTensor(ticket, group, id, specs)
Napi::Value create_tensor(Arguments info) {
  const int64_t ticket = parse_ticket(info[0]);
  const GroupHandle handle = unwrap_group(info[1]);
  auto messages = parse_create_tensor(parse_id(info[2]), info[3], handle.group->size());
  return submit(info, handle, [&](RankGroup& group) { group.submit(ticket, std::move(messages)); });
}

// createProgram(ticket, group, id, spec)
Napi::Value create_program(Arguments info) {
  const int64_t ticket = parse_ticket(info[0]);
  const GroupHandle handle = unwrap_group(info[1]);
  auto messages = parse_create_program(parse_id(info[2]), info[3], handle.group->size());
  return submit(info, handle, [&](RankGroup& group) { group.submit(ticket, std::move(messages)); });
}

// runProgram(ticket, group, id, step)
Napi::Value run_program(Arguments info) {
  const int64_t ticket = parse_ticket(info[0]);
  const GroupHandle handle = unwrap_group(info[1]);
  RunProgram message{parse_id(info[2]), parse_step(info[3])};
  return submit(info, handle, [&](RankGroup& group) { group.submit(ticket, Message(std::move(message))); });
}

// readTensor(ticket, group, id, rank)
Napi::Value read_tensor(Arguments info) {
  const int64_t ticket = parse_ticket(info[0]);
  const GroupHandle handle = unwrap_group(info[1]);
  const int64_t id = parse_id(info[2]);
  const int rank = parse_rank(info[3], handle.group->size());
  return submit(info, handle, [&](RankGroup& group) { group.submit_to(ticket, rank, ReadTensor{id}); });
}

// dispose(ticket, group, ids)
Napi::Value dispose(Arguments info) {
  const int64_t ticket = parse_ticket(info[0]);
  const GroupHandle handle = unwrap_group(info[1]);
  Dispose message{parse_ids(info[2])};
  return submit(info, handle, [&](RankGroup& group) { group.submit(ticket, Message(std::move(message))); });
}

// closeGroup(ticket, group)
Napi::Value close(Arguments info) {
  const int64_t ticket = parse_ticket(info[0]);
  const GroupHandle handle = unwrap_group(info[1]);
  return submit(info, handle, [&](RankGroup& group) { group.submit(ticket, Message(Close{})); });
}

Napi::Object describe(Napi::Env env, const RankInfo& rank) {
  const auto bytes = [&](uint64_t count) { return Napi::Number::New(env, static_cast<double>(count)); };
  const auto object = Napi::Object::New(env);
  object.Set("rank", bytes(static_cast<uint64_t>(rank.rank)));
  object.Set("device", rank.device);
  object.Set("weightBytes", bytes(rank.weight_bytes));
  object.Set("cacheBytes", bytes(rank.cache_bytes));
  object.Set("workspaceBytes", bytes(rank.workspace_bytes));
  object.Set("fileBytesRead", bytes(rank.file_bytes_read));
  object.Set("fileBytesUsed", bytes(rank.file_bytes_used));
  return object;
}

Napi::Value group_info(Arguments info) {
  const std::vector<RankInfo> ranks = unwrap_group(info[0]).group->info();
  const auto list = Napi::Array::New(info.Env(), ranks.size());
  for (uint32_t i = 0; i < ranks.size(); ++i) list.Set(i, describe(info.Env(), ranks[i]));
  return list;
}

// groupPlacement(group): where the ranks run and what they talk over
Napi::Value group_placement(Arguments info) {
  const GroupHandle handle = unwrap_group(info[0]);
  const auto& [devices, communicator] = *handle.placement;
  const auto list = Napi::Array::New(info.Env(), devices.size());
  for (uint32_t i = 0; i < devices.size(); ++i) list.Set(i, Napi::Number::New(info.Env(), devices[i]));
  const auto object = Napi::Object::New(info.Env());
  object.Set("devices", list);
  object.Set("communicator", communicator);
  return object;
}

Napi::Value cpu_info(Arguments info) {
  const auto result = Napi::Object::New(info.Env());
  result.Set("isa", cpu_isa_name());
  result.Set("coreCount", Napi::Number::New(info.Env(), usable_cores()));
  return result;
}

// cudaInfo(search, everything)
Napi::Value cuda_info_value(Arguments info) {
  const CudaSearch search = parse_cuda_search(info[0]);
  return describe_cuda(info.Env(), cuda_info(search, read_flag(info[1], "cudaInfo: everything")));
}

// cudaMemory(search, device)
Napi::Value cuda_memory_value(Arguments info) {
  const CudaSearch search = parse_cuda_search(info[0]);
  const DeviceMemory memory = cuda_memory(search, parse_device(info[1]));
  const auto object = Napi::Object::New(info.Env());
  object.Set("totalBytes", Napi::Number::New(info.Env(), static_cast<double>(memory.total_bytes)));
  object.Set("freeBytes", Napi::Number::New(info.Env(), static_cast<double>(memory.free_bytes)));
  return object;
}

void throw_error(napi_env env, const char* code, const char* message) noexcept {
  napi_value code_value = nullptr, text = nullptr, error = nullptr;
  if (napi_create_string_utf8(env, code, NAPI_AUTO_LENGTH, &code_value) != napi_ok) return;
  if (napi_create_string_utf8(env, message, NAPI_AUTO_LENGTH, &text) != napi_ok) return;
  if (napi_create_error(env, code_value, text, &error) == napi_ok) napi_throw(env, error);
}

template <Napi::Value (*Body)(Arguments)>
Napi::Value guarded(Arguments info) {
  const napi_env env = info.Env();
  try {
    return Body(info);
  } catch (const Napi::Error& error) {                // a getter or a proxy threw, or the worker is being terminated
    error.ThrowAsJavaScriptException();
  } catch (const Error& error) {
    throw_error(env, name_of(error.code()), error.what());
  } catch (const std::bad_alloc&) {
    throw_error(env, name_of(ErrorCode::out_of_memory), "native call: expected memory for its arguments, got none");
  } catch (const std::length_error&) {
    throw_error(env, name_of(ErrorCode::out_of_memory), "native call: expected arguments that fit memory, got more");
  } catch (const std::exception& error) {
    throw_error(env, name_of(ErrorCode::device_failed), error.what());
  } catch (...) {
    throw_error(env, name_of(ErrorCode::device_failed), "native call: unknown failure");
  }
  return Napi::Value();
}

struct Export {
  const char* name;
  Napi::Value (*function)(Arguments);
};

constexpr Export kExports[] = {
    {"initialize", guarded<initialize>},
    {"openGroup", guarded<open>},
    {"createTensor", guarded<create_tensor>},
    {"createProgram", guarded<create_program>},
    {"runProgram", guarded<run_program>},
    {"readTensor", guarded<read_tensor>},
    {"dispose", guarded<dispose>},
    {"closeGroup", guarded<close>},
    {"groupInfo", guarded<group_info>},
    {"groupPlacement", guarded<group_placement>},
    {"cpuInfo", guarded<cpu_info>},
    {"cudaInfo", guarded<cuda_info_value>},
    {"cudaMemory", guarded<cuda_memory_value>},
};

Napi::Object initialize_module(Napi::Env env, Napi::Object exports) {
  for (const Export& entry : kExports) exports.Set(entry.name, Napi::Function::New(env, entry.function, entry.name));
  exports.Set("version", Napi::String::New(env, HEDDLE_VERSION));
  return exports;
}

}  // namespace

}  // namespace heddle::addon

static Napi::Object heddle_initialize(Napi::Env env, Napi::Object exports) {
  return heddle::addon::initialize_module(env, exports);
}

NODE_API_MODULE(heddle, heddle_initialize)
