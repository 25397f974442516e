// Reading of single JavaScript values with a check of type and range; `where` names the argument in the error.
// Rule: a getter or a proxy may run any code, so a pointer into an ArrayBuffer is used before JavaScript runs again.
#pragma once
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "addon/napi_setup.h"
#include "core/dtype.h"

namespace heddle::addon {

constexpr int64_t kMaxSafeInteger = 9007199254740991;

// Throws invalid_argument: "where: expected …, got …".
[[noreturn]] void refuse(const std::string& where, const std::string& expected, const Napi::Value& got);
[[noreturn]] void refuse(const std::string& where, const std::string& expected, const std::string& got);

std::string element(const std::string& where, size_t index);                     // "where[index]"

Napi::Object read_object(const Napi::Value& value, const std::string& where);    // not an array, not null
Napi::Array read_array(const Napi::Value& value, uint32_t max_length, const std::string& where);
bool read_flag(const Napi::Value& value, const std::string& where);
double read_number(const Napi::Value& value, const std::string& where);          // finite
int64_t read_integer(const Napi::Value& value, int64_t least, int64_t most, const std::string& where);
std::string read_text(const Napi::Value& value, size_t max_length, const std::string& where);
DType read_dtype(const Napi::Value& value, const std::string& where);
std::vector<int64_t> read_shape(const Napi::Value& value, const std::string& where);

// Checked arithmetic on sizes: the result is at most kMaxSafeInteger or it is refused.
int64_t product_of(int64_t a, int64_t b, const std::string& where);
int64_t sum_of(int64_t a, int64_t b, const std::string& where);
int64_t count_of(const std::vector<int64_t>& shape, const std::string& where);

struct Elements {
  const uint8_t* data = nullptr;                      // valid until JavaScript runs again
  size_t count = 0;
  napi_typedarray_type type = napi_uint8_array;
};
Elements read_typed_array(const Napi::Value& value, const std::string& where);
std::vector<int32_t> read_int32_array(const Napi::Value& value, const std::string& where);
std::vector<float> read_float32_array(const Napi::Value& value, const std::string& where);

}  // namespace heddle::addon
