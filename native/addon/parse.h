// JavaScript arguments → messages, as plain data. Rule: whatever is passed, the outcome is a message whose sizes fit
// together or an Error that names the argument. Texts, numbers and elements are copied: nothing of JavaScript is kept.
#pragma once
#include <cstdint>
#include <memory>
#include <vector>

#include "addon/napi_setup.h"
#include "core/message.h"
#include "factory.h"

namespace heddle::addon {

constexpr int64_t kMaxGroupSize = 64;

int64_t parse_ticket(const Napi::Value& value);       // 1 … 2^53 - 1
int64_t parse_id(const Napi::Value& value);           // 0 … 2^53 - 1
int parse_rank(const Napi::Value& value, int size);
std::vector<int64_t> parse_ids(const Napi::Value& value);
int parse_device(const Napi::Value& value);           // the number of a GPU, which need not be there
GroupOptions parse_group_options(const Napi::Value& value);
CudaSearch parse_cuda_search(const Napi::Value& value);

// One message per rank, in rank order.
std::vector<Message> parse_create_tensor(int64_t id, const Napi::Value& specs, int size);
std::vector<Message> parse_create_program(int64_t id, const Napi::Value& spec, int size);
std::shared_ptr<const Step> parse_step(const Napi::Value& value);    // one copy for all ranks

}  // namespace heddle::addon
