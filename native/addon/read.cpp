#include "addon/read.h"

#include <cmath>
#include <cstring>

#include "core/error.h"

namespace heddle::addon {

namespace {

constexpr uint32_t kMaxDimensions = 8;

std::string describe_number(double value) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value > 0 ? "Infinity" : "-Infinity";
  if (value == std::trunc(value) && std::abs(value) <= static_cast<double>(kMaxSafeInteger)) {
    return std::to_string(static_cast<int64_t>(value));
  }
  char text[32];
  std::snprintf(text, sizeof text, "%g", value);
  return text;
}

// Short, and asks the value nothing that could run JavaScript.
std::string describe(const Napi::Value& value) {
  switch (value.Type()) {
    case napi_undefined: return "undefined";
    case napi_null: return "null";
    case napi_boolean: return value.As<Napi::Boolean>().Value() ? "true" : "false";
    case napi_number: return describe_number(value.As<Napi::Number>().DoubleValue());
    case napi_string: {
      char text[48];
      size_t length = 0;
      napi_get_value_string_utf8(value.Env(), value, text, sizeof text, &length);
      return "\"" + std::string(text, length) + "\"";
    }
    case napi_symbol: return "a symbol";
    case napi_function: return "a function";
    case napi_external: return "an external";
    case napi_bigint: return "a bigint";
    case napi_object: break;
  }
  if (value.IsArray()) return "an array of " + std::to_string(value.As<Napi::Array>().Length());
  if (value.IsTypedArray()) return "another typed array";
  return "an object";
}

[[noreturn]] void too_large(const std::string& where) { refuse(where, "sizes below 2^53", "larger ones"); }

}  // namespace

void refuse(const std::string& where, const std::string& expected, const std::string& got) {
  throw Error(ErrorCode::invalid_argument, where + ": expected " + expected + ", got " + got);
}

void refuse(const std::string& where, const std::string& expected, const Napi::Value& got) {
  refuse(where, expected, describe(got));
}

std::string element(const std::string& where, size_t index) { return where + "[" + std::to_string(index) + "]"; }

Napi::Object read_object(const Napi::Value& value, const std::string& where) {
  if (value.Type() != napi_object || value.IsArray() || value.IsTypedArray()) refuse(where, "an object", value);
  return value.As<Napi::Object>();
}

Napi::Array read_array(const Napi::Value& value, uint32_t max_length, const std::string& where) {
  if (!value.IsArray()) refuse(where, "an array", value);
  const auto array = value.As<Napi::Array>();
  if (array.Length() > max_length) refuse(where, "at most " + std::to_string(max_length) + " elements", value);
  return array;
}

bool read_flag(const Napi::Value& value, const std::string& where) {
  if (!value.IsBoolean()) refuse(where, "true or false", value);
  return value.As<Napi::Boolean>().Value();
}

double read_number(const Napi::Value& value, const std::string& where) {
  if (!value.IsNumber()) refuse(where, "a number", value);
  const double number = value.As<Napi::Number>().DoubleValue();
  if (!std::isfinite(number)) refuse(where, "a finite number", value);
  return number;
}

int64_t read_integer(const Napi::Value& value, int64_t least, int64_t most, const std::string& where) {
  const std::string expected = "an integer from " + std::to_string(least) + " to " + std::to_string(most);
  if (!value.IsNumber()) refuse(where, expected, value);
  const double number = value.As<Napi::Number>().DoubleValue();
  // Compared as doubles first: converting one that is out of range would be undefined.
  const bool safe = number == std::trunc(number) && std::abs(number) <= static_cast<double>(kMaxSafeInteger);
  const int64_t integer = safe ? static_cast<int64_t>(number) : 0;
  if (!safe || integer < least || integer > most) refuse(where, expected, value);
  return integer;
}

std::string read_text(const Napi::Value& value, size_t max_length, const std::string& where) {
  if (!value.IsString()) refuse(where, "a string", value);
  size_t length = 0;
  if (napi_get_value_string_utf8(value.Env(), value, nullptr, 0, &length) != napi_ok) refuse(where, "a string", value);
  if (length == 0 || length > max_length) {
    refuse(where, "1 to " + std::to_string(max_length) + " bytes of text", std::to_string(length) + " bytes");
  }
  std::string text = value.As<Napi::String>().Utf8Value();
  if (text.find('\0') != std::string::npos) refuse(where, "a text without NUL characters", "one with");
  return text;
}

DType read_dtype(const Napi::Value& value, const std::string& where) {
  if (value.IsString()) {
    const std::string name = value.As<Napi::String>().Utf8Value();
    for (const DType dtype : {DType::float32, DType::bfloat16, DType::float16}) {
      if (name == name_of(dtype)) return dtype;
    }
  }
  refuse(where, "float32, bfloat16 or float16", value);
}

std::vector<int64_t> read_shape(const Napi::Value& value, const std::string& where) {
  const auto array = read_array(value, kMaxDimensions, where);
  std::vector<int64_t> shape;
  const uint32_t length = array.Length();
  for (uint32_t i = 0; i < length; ++i) shape.push_back(read_integer(array.Get(i), 0, kMaxSafeInteger, where));
  count_of(shape, where);
  return shape;
}

int64_t product_of(int64_t a, int64_t b, const std::string& where) {
  int64_t product = 0;
  if (__builtin_mul_overflow(a, b, &product) || product > kMaxSafeInteger) too_large(where);
  return product;
}

int64_t sum_of(int64_t a, int64_t b, const std::string& where) {
  int64_t sum = 0;
  if (__builtin_add_overflow(a, b, &sum) || sum > kMaxSafeInteger) too_large(where);
  return sum;
}

int64_t count_of(const std::vector<int64_t>& shape, const std::string& where) {
  int64_t count = 1;
  for (const int64_t length : shape) count = product_of(count, length, where);
  return count;
}

Elements read_typed_array(const Napi::Value& value, const std::string& where) {
  if (!value.IsTypedArray()) refuse(where, "a typed array", value);
  Elements elements;
  void* data = nullptr;
  const napi_status status =
      napi_get_typedarray_info(value.Env(), value, &elements.type, &elements.count, &data, nullptr, nullptr);
  if (status != napi_ok) refuse(where, "a typed array", value);
  elements.data = static_cast<const uint8_t*>(data);
  return elements;
}

std::vector<int32_t> read_int32_array(const Napi::Value& value, const std::string& where) {
  if (!value.IsTypedArray()) refuse(where, "an Int32Array", value);
  const Elements elements = read_typed_array(value, where);
  if (elements.type != napi_int32_array) refuse(where, "an Int32Array", value);
  std::vector<int32_t> result(elements.count);
  if (elements.count) std::memcpy(result.data(), elements.data, elements.count * sizeof(int32_t));
  return result;
}

std::vector<float> read_float32_array(const Napi::Value& value, const std::string& where) {
  if (!value.IsTypedArray()) refuse(where, "a Float32Array", value);
  const Elements elements = read_typed_array(value, where);
  if (elements.type != napi_float32_array) refuse(where, "a Float32Array", value);
  std::vector<float> result(elements.count);
  if (elements.count) std::memcpy(result.data(), elements.data, elements.count * sizeof(float));
  return result;
}

}  // namespace heddle::addon
