// What the programs share that time linear layers line by line.
#pragma once
#include <algorithm>
#include <cstdint>
#include <iostream>
#include <sstream>
#include <string>

#include "core/error.h"

namespace heddle::test {

struct AskedLinear {
  int64_t in = 0, out = 0, rows = 0;

  double operations() const { return 2.0 * static_cast<double>(in) * static_cast<double>(out) * static_cast<double>(rows); }
};

inline AskedLinear asked_linear(const std::string& line) {
  AskedLinear asked;
  std::istringstream words(line);
  if (!(words >> asked.in >> asked.out >> asked.rows) || std::min({asked.in, asked.out, asked.rows}) < 1)
    throw Error(ErrorCode::invalid_argument, "linear bench: expected ceilings or IN OUT ROWS, got " + line);
  return asked;
}

// One line of JSON for every line of stdin; an error of one answer does not end the program.
template <typename Answer>
void answer_lines(Answer answer) {
  for (std::string line; std::getline(std::cin, line);) {
    try {
      std::cout << answer(line) << std::endl;
    } catch (const Error& error) {
      std::cout << "{\"error\":\"" << error.what() << "\"}" << std::endl;
    }
  }
}

}  // namespace heddle::test
