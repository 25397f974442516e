// Runs the registered tests: every test without arguments, else those whose name contains one of the arguments.
// Prints the failures and, as the last line, "N passed, N failed"; exits with 1 when a test failed or none matched.
#include <algorithm>
#include <cstdio>
#include <exception>
#include <mutex>

#include "test.h"

namespace heddle::test {
namespace {

constexpr size_t kPrintedFailures = 10;  // of one test; the rest are counted

std::mutex failure_mutex;
std::vector<std::string> failures;  // of the running test

bool selected(const TestCase& test, int argument_count, char** arguments) {
  if (argument_count < 2) return true;
  return std::any_of(arguments + 1, arguments + argument_count,
                     [&](const char* filter) { return std::string(test.name).find(filter) != std::string::npos; });
}

void run_body(const TestCase& test) {
  try {
    test.function();
  } catch (const Error& error) {
    record_failure(std::string("uncaught error ") + name_of(error.code()) + ": " + error.what());
  } catch (const std::exception& error) {
    record_failure(std::string("uncaught exception: ") + error.what());
  }
}

bool passes(const TestCase& test) {
  failures.clear();
  run_body(test);
  const std::lock_guard lock(failure_mutex);
  if (failures.empty()) return true;
  std::printf("FAILED %s\n", test.name);
  for (size_t i = 0; i < std::min(failures.size(), kPrintedFailures); ++i) std::printf("  %s\n", failures[i].c_str());
  if (failures.size() > kPrintedFailures) std::printf("  and %zu more\n", failures.size() - kPrintedFailures);
  std::fflush(stdout);
  return false;
}

}  // namespace

std::vector<TestCase>& test_cases() {
  static std::vector<TestCase> cases;
  return cases;
}

void record_failure(const std::string& message) {
  const std::lock_guard lock(failure_mutex);
  failures.push_back(message);
}

}  // namespace heddle::test

// Tests ask for impossible amounts of memory on purpose; a sanitizer must answer as malloc does.
// Visible, since the sanitizer's library looks for them.
#define HEDDLE_VISIBLE extern "C" __attribute__((visibility("default")))
HEDDLE_VISIBLE const char* __asan_default_options();
HEDDLE_VISIBLE const char* __asan_default_options() { return "allocator_may_return_null=1"; }
HEDDLE_VISIBLE const char* __tsan_default_options();
HEDDLE_VISIBLE const char* __tsan_default_options() { return "allocator_may_return_null=1"; }

int main(int argument_count, char** arguments) {
  using namespace heddle::test;
  int passed = 0;
  int failed = 0;
  for (const TestCase& test : test_cases()) {
    if (!selected(test, argument_count, arguments)) continue;
    (passes(test) ? passed : failed) += 1;
  }
  std::printf("%d passed, %d failed\n", passed, failed);
  return failed == 0 && passed > 0 ? 0 : 1;
}
