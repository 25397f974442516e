// Typed reading of a node's attributes: a missing or malformed one is invalid_argument, never a default.
#pragma once
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/message.h"

namespace heddle {

class Attributes {
 public:
  explicit Attributes(const Node& node) : node_(node) {}

  double number(const std::string& name) const {
    const auto found = node_.numbers.find(name);
    if (found == node_.numbers.end() || std::isnan(found->second)) missing(name, "a number");
    return found->second;
  }

  int64_t integer(const std::string& name) const { return whole(name, number(name)); }

  std::vector<int32_t> integers(const std::string& name) const {
    const auto found = node_.lists.find(name);
    if (found == node_.lists.end()) missing(name, "a list of integers");
    std::vector<int32_t> result;
    for (const double value : found->second) {
      const int64_t integer = whole(name, value);
      if (integer < INT32_MIN || integer > INT32_MAX) missing(name, "integers of 32 bits");
      result.push_back(static_cast<int32_t>(integer));
    }
    return result;
  }

  std::vector<int32_t> optional_integers(const std::string& name) const {
    return node_.lists.contains(name) ? integers(name) : std::vector<int32_t>{};
  }

  const std::string& text(const std::string& name) const {
    const auto found = node_.texts.find(name);
    if (found == node_.texts.end()) missing(name, "a text");
    return found->second;
  }

 private:
  static int64_t whole(const std::string& name, double value) {
    if (value != std::trunc(value) || std::abs(value) > 9007199254740991.0) missing(name, "an integer");
    return static_cast<int64_t>(value);
  }
  [[noreturn]] static void missing(const std::string& name, const char* what) {
    throw Error(ErrorCode::invalid_argument, "Program: attribute " + name + ": expected " + what);
  }

  const Node& node_;
};

}  // namespace heddle
