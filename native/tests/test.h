// The test registry of native code: HEDDLE_TEST defines and registers a test, check() and check_close() record
// failures. A failed check never ends the test, and checks may come from any thread, so that tests of rank threads need
// nothing special.
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <sstream>
#include <string>
#include <vector>

#include "core/error.h"

namespace heddle::test {

using TestFunction = void (*)();

struct TestCase {
  const char* name;
  TestFunction function;
};

std::vector<TestCase>& test_cases();

struct TestRegistration {
  TestRegistration(const char* name, TestFunction function) { test_cases().push_back({name, function}); }
};

// Adds one failure to the running test.
void record_failure(const std::string& message);

// `what` is any number of values that can be streamed; they are joined only when the check fails.
template <typename... What>
bool check(bool condition, const What&... what) {
  if (condition) return true;
  std::ostringstream text;
  (text << ... << what);
  record_failure(text.str());
  return false;
}

// |actual - expected| <= tolerance; NaN is close to nothing, equal infinities are close.
template <typename... What>
bool check_close(double actual, double expected, double tolerance, const What&... what) {
  const bool close = actual == expected || std::abs(actual - expected) <= tolerance;
  return check(close, what..., ": expected ", expected, " within ", tolerance, ", got ", actual);
}

// Runs `body`, which must throw heddle::Error with this code.
template <typename... What>
bool check_throws(ErrorCode code, const std::function<void()>& body, const What&... what) {
  try {
    body();
  } catch (const Error& error) {
    return check(error.code() == code, what..., ": expected an error ", name_of(code), ", got ", name_of(error.code()),
                 " (", error.what(), ")");
  }
  return check(false, what..., ": expected an error ", name_of(code), ", got none");
}

// The same numbers on every machine for the same seed (splitmix64).
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}

  uint64_t next() {
    uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  // In [0, bound).
  int64_t below(int64_t bound) { return static_cast<int64_t>(next() % static_cast<uint64_t>(bound)); }
  // In [low, high).
  float uniform(float low = -1.0f, float high = 1.0f) {
    return low + (high - low) * static_cast<float>(static_cast<double>(next() >> 11) * 0x1.0p-53);
  }
  std::vector<float> uniform_vector(size_t count, float low = -1.0f, float high = 1.0f) {
    std::vector<float> values(count);
    for (float& value : values) value = uniform(low, high);
    return values;
  }

 private:
  uint64_t state_;
};

}  // namespace heddle::test

// HEDDLE_TEST(name) { ... }: the name is an identifier, unique in the binary, `<file>_<what holds>`.
#define HEDDLE_TEST(test_name)                                                                                         \
  static void heddle_test_##test_name();                                                                               \
  static const ::heddle::test::TestRegistration heddle_registration_##test_name(#test_name, &heddle_test_##test_name); \
  static void heddle_test_##test_name()
