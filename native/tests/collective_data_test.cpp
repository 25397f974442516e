// What the collective benches check their results with: a right result has no wrong elements, and each damaged one is counted.
#include "collective_data.h"

#include <cmath>
#include <string>

#include "test.h"

namespace heddle::test {
namespace {

Question asked_for(const std::string& line, int ranks) {
  std::string trouble;
  const Question asked = parse_question(line, ranks, trouble);
  check(trouble.empty(), trouble);
  return asked;
}

std::string trouble_with(const std::string& line, int ranks) {
  std::string trouble;
  parse_question(line, ranks, trouble);
  return trouble;
}

// What `rank` gives, as floats.
std::vector<float> input_of(const CollectiveData& data, const Question& asked, int rank) {
  std::vector<std::byte> held(static_cast<size_t>(asked.input_count()) * size_of(asked.dtype));
  data.produce(rank, held.data(), asked.input_count());
  std::vector<float> values(static_cast<size_t>(asked.input_count()));
  convert(held.data(), asked.dtype, values.data(), DType::float32, values.size());
  return values;
}

// By the definition of the collective.
std::vector<float> right_result(const CollectiveData& data, const Question& asked, int rank) {
  std::vector<std::vector<float>> inputs;
  for (int peer = 0; peer < asked.ranks; ++peer) inputs.push_back(input_of(data, asked, peer));
  if (asked.collective == Collective::send_recv) return inputs[static_cast<size_t>((rank + asked.ranks - 1) % asked.ranks)];
  std::vector<float> whole;
  if (asked.collective == Collective::all_gather) {
    for (const std::vector<float>& input : inputs) whole.insert(whole.end(), input.begin(), input.end());
    return whole;
  }
  whole.resize(inputs[0].size());
  for (const std::vector<float>& input : inputs) {
    for (size_t i = 0; i < whole.size(); ++i) whole[i] += input[i];
  }
  if (asked.collective == Collective::all_reduce) return whole;
  const auto begin = whole.begin() + rank * asked.part;
  return {begin, begin + asked.part};
}

}  // namespace

HEDDLE_TEST(collective_data_counts_every_wrong_element) {
  for (const char* line : {"all_reduce 1200000 float32 in eager", "all_gather 1200000 bfloat16 out eager", "reduce_scatter 1200000 float16 out eager",
                           "send_recv 1200000 bfloat16 out eager"}) {
    const Question asked = asked_for(line, 3);
    const CollectiveData data(asked);
    for (int rank = 0; rank < 3; ++rank) {
      const std::vector<float> right = right_result(data, asked, rank);
      std::vector<std::byte> result(right.size() * size_of(asked.dtype));
      convert(right.data(), DType::float32, result.data(), asked.dtype, right.size());
      check(data.count_wrong(rank, result.data()) == 0, line, ": a right result of rank ", rank);
      data.corrupt(result.data());
      check(data.count_wrong(rank, result.data()) == 1, line, ": one bit of a result of rank ", rank);
      const std::vector<std::byte> nothing(result.size());
      check(data.count_wrong(rank, nothing.data()) > asked.result_count() * 9 / 10, line, ": a result that was never written");
      check(data.count_wrong((rank + 1) % 3, result.data()) > 0 || asked.collective == Collective::all_reduce ||
                asked.collective == Collective::all_gather, line, ": the result of another rank");
    }
  }
}

// In any order, also of intermediate sums in the data type: NCCL and others sum as they like.
HEDDLE_TEST(collective_data_sums_exactly) {
  for (const char* dtype : {"float32", "bfloat16", "float16"}) {
    const Question asked = asked_for(std::string("all_reduce 4096 ") + dtype + " in eager", 8);
    const CollectiveData data(asked);
    std::vector<float> largest(static_cast<size_t>(asked.part));
    for (int rank = 0; rank < 8; ++rank) {
      const std::vector<float> input = input_of(data, asked, rank);
      for (size_t i = 0; i < input.size(); ++i) largest[i] += std::abs(input[i]);
    }
    const float exact = asked.dtype == DType::float32 ? 0x1p24f : asked.dtype == DType::float16 ? 0x1p11f : 0x1p8f;
    for (const float sum : largest) {
      if (!check(sum <= exact, dtype, ": ", sum, " is beyond the whole numbers that it holds")) return;
    }
  }
}

HEDDLE_TEST(collective_questions_count_as_nccl_tests_do) {
  const Question gather = asked_for("all_gather 1000 float32 out eager", 3);  // 250 elements: 83 a rank, in vectors of 4: 80
  check(gather.part == 80 && gather.whole() == 240 && gather.bytes() == 960, "all_gather: parts are whole vectors");
  check(gather.input_count() == 80 && gather.result_count() == 240, "all_gather: a part becomes the whole");
  const Question scatter = asked_for("reduce_scatter 4096 bfloat16 in graph", 4);
  check(scatter.part == 512 && scatter.bytes() == 4096 && scatter.input_count() == 2048 && scatter.result_count() == 512, "reduce_scatter");
  check(scatter.graph && scatter.in_place, "the words behind the type");
  const Question reduce = asked_for("all_reduce 4096 float16 in eager", 4);
  check(reduce.part == 2048 && reduce.bytes() == 4096, "all_reduce: every rank has all");
  for (const char* line : {"", "all_reduce", "reduce 4096 float32 in eager", "all_reduce 4096 float64 in eager", "all_reduce x float32 in eager",
                           "all_reduce 4096 float32 in", "all_reduce 4096 float32 out eager", "send_recv 4096 float32 in eager",
                           "all_gather 60 float32 in eager"}) {
    check(!trouble_with(line, 4).empty(), "expected to be refused: ", line);
  }
}

}  // namespace heddle::test
