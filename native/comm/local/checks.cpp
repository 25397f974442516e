#include "comm/local/checks.h"

#include <string>

#include "core/error.h"

namespace heddle::comm {

namespace {

[[noreturn]] void invalid(const char* collective, const std::string& text) {
  throw Error(ErrorCode::invalid_argument, std::string(collective) + ": " + text);
}

std::string shape_of(View view) { return std::to_string(view.rows) + " x " + std::to_string(view.width); }

struct Named {
  const char* name;
  View view;
};

// `part` is this rank's columns of `whole`.
void check_parts(const char* collective, int rank, int size, const std::vector<int64_t>& widths, Named part, Named whole) {
  if (static_cast<int>(widths.size()) != size) {
    invalid(collective, "expected " + std::to_string(size) + " widths, got " + std::to_string(widths.size()));
  }
  int64_t total = 0;
  for (const int64_t width : widths) {
    if (width < 0) invalid(collective, "expected widths of at least 0, got " + std::to_string(width));
    total += width;
  }
  const int64_t own = widths[static_cast<size_t>(rank)];
  if (part.view.width != own) {
    invalid(collective, std::string("expected ") + part.name + " of width " + std::to_string(own) + ", got " +
                            std::to_string(part.view.width));
  }
  if (whole.view.width != total || whole.view.rows != part.view.rows || whole.view.dtype != part.view.dtype) {
    invalid(collective, std::string("expected ") + whole.name + " of " + std::to_string(part.view.rows) + " x " +
                            std::to_string(total) + " " + name_of(part.view.dtype) + ", got " + shape_of(whole.view) + " " +
                            name_of(whole.view.dtype));
  }
}

void check_peer(int size, int peer) {
  if (peer >= 0 && peer < size) return;
  invalid("send-receive", "expected a rank from 0 to " + std::to_string(size - 1) + ", got " + std::to_string(peer));
}

}  // namespace

void check_all_gather(int rank, int size, View x, const std::vector<int64_t>& widths, View y) {
  check_parts("all-gather", rank, size, widths, {"an input", x}, {"a result", y});
}

void check_reduce_scatter(int rank, int size, View x, const std::vector<int64_t>& widths, View y) {
  check_parts("reduce-scatter", rank, size, widths, {"a result", y}, {"an input", x});
}

void check_send_receive(int size, View x, int to, View y, int from) {
  check_peer(size, to);
  check_peer(size, from);
  if (x.rows * x.width == y.rows * y.width && x.dtype == y.dtype) return;
  invalid("send-receive", "expected a result of " + shape_of(x) + " " + name_of(x.dtype) + ", got " + shape_of(y) + " " +
                              name_of(y.dtype));
}

}  // namespace heddle::comm
