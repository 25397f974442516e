// What a collective bench is asked, one line each: "<collective> <bytes> <dtype> <in|out> <eager|graph>", and how it answers. Bytes are
// those of the column "size" of nccl-tests: of the whole array, where ranks hold parts of it.
#pragma once
#include <cstdint>
#include <cstdio>
#include <optional>
#include <sstream>
#include <string>

#include "core/dtype.h"

namespace heddle::test {

enum class Collective { all_reduce, all_gather, reduce_scatter, send_recv };

inline const char* name_of(Collective collective) {
  switch (collective) {
    case Collective::all_reduce: return "all_reduce";
    case Collective::all_gather: return "all_gather";
    case Collective::reduce_scatter: return "reduce_scatter";
    case Collective::send_recv: return "send_recv";
  }
  return "";
}

struct Question {
  Collective collective = Collective::all_reduce;
  DType dtype = DType::float32;
  bool in_place = false;
  bool graph = false;
  int ranks = 1;
  int64_t part = 0;                                   // elements of a rank, where ranks hold parts; else all
  bool corrupt = false;                               // one element of one result is damaged before the results are looked at

  bool has_parts() const { return collective == Collective::all_gather || collective == Collective::reduce_scatter; }
  bool sums() const { return collective == Collective::all_reduce || collective == Collective::reduce_scatter; }
  int64_t whole() const { return has_parts() ? part * ranks : part; }
  size_t bytes() const { return static_cast<size_t>(whole()) * size_of(dtype); }
  int64_t input_count() const { return collective == Collective::all_gather ? part : whole(); }
  int64_t result_count() const { return collective == Collective::reduce_scatter ? part : whole(); }
};

struct Answer {
  double microseconds = 0;
  int64_t wrong = 0;                                  // elements, of all ranks' results
  std::string error;                                  // empty: none
};

namespace question {

inline std::optional<Collective> collective_of(const std::string& name) {
  for (const Collective one : {Collective::all_reduce, Collective::all_gather, Collective::reduce_scatter, Collective::send_recv}) {
    if (name == name_of(one)) return one;
  }
  return std::nullopt;
}
inline std::optional<DType> dtype_of(const std::string& name) {
  for (const DType one : {DType::float32, DType::bfloat16, DType::float16}) {
    if (name == name_of(one)) return one;
  }
  return std::nullopt;
}

}  // namespace question

// Empty `trouble`: the question stands. Parts are whole 16-byte vectors, as in nccl-tests.
inline Question parse_question(const std::string& line, int ranks, std::string& trouble) {
  std::istringstream words(line);
  std::string collective, dtype, place, mode;
  uint64_t bytes = 0;
  words >> collective >> bytes >> dtype >> place >> mode;
  const auto kind = question::collective_of(collective);
  const auto type = question::dtype_of(dtype);
  Question asked;
  trouble = "expected \"<collective> <bytes> <dtype> <in|out> <eager|graph>\", got \"" + line + "\"";
  if (words.fail() || !kind || !type || (place != "in" && place != "out") || (mode != "eager" && mode != "graph")) return asked;
  asked = {*kind, *type, place == "in", mode == "graph", ranks, static_cast<int64_t>(bytes / size_of(*type)), false};
  if (asked.has_parts()) {
    const auto vector = static_cast<int64_t>(16 / size_of(*type));
    asked.part = asked.part / ranks / vector * vector;
  }
  trouble = asked.part > 0 ? "" : "expected at least 16 bytes for each rank, got " + std::to_string(bytes);
  if (*kind == Collective::all_reduce && !asked.in_place) trouble = "all_reduce: expected in place, got out of place";
  if (*kind == Collective::send_recv && asked.in_place) trouble = "send_recv: expected out of place, got in place";
  return asked;
}

inline void print_answer(const Question& asked, const Answer& answer) {
  if (!answer.error.empty()) {
    std::string text;                                 // a line of a driver may hold anything
    for (const char c : answer.error) text += c == '"' || c == '\\' ? '\'' : static_cast<unsigned char>(c) < ' ' ? ' ' : c;
    std::printf("{\"error\":\"%s\"}\n", text.c_str());
  } else {
    std::printf("{\"collective\":\"%s\",\"ranks\":%d,\"bytes\":%zu,\"count\":%lld,\"type\":\"%s\",\"redop\":\"%s\",\"inPlace\":%s,\"graph\":%s,",
                name_of(asked.collective), asked.ranks, asked.bytes(), static_cast<long long>(asked.part), name_of(asked.dtype),
                asked.sums() ? "sum" : "none", asked.in_place ? "true" : "false", asked.graph ? "true" : "false");
    std::printf("\"microseconds\":%.3f,\"wrong\":%lld}\n", answer.microseconds, static_cast<long long>(answer.wrong));
  }
  std::fflush(stdout);
}

}  // namespace heddle::test
