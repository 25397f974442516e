// The data of a collective bench: what every rank gives, and how many elements of a result are not what they should be.
// Rule: whole numbers so small that their sums are exact in the data type, so that a result is right or wrong whatever the order of a sum.
#pragma once
#include <algorithm>
#include <cstring>
#include <vector>

#include "core/communicator.h"
#include "core/dtype.h"
#include "core/tensor.h"
#include "tests/collective_question.h"

namespace heddle::test {

class CollectiveData {
 public:
  explicit CollectiveData(const Question& asked) : asked_(asked) {
    // 24, 11 and 8 bits of significand: sums of all ranks up to 2^23, 2^10 and 2^7
    const int64_t largest_sum = int64_t{1} << (asked.dtype == DType::float32 ? 23 : asked.dtype == DType::float16 ? 10 : 7);
    const int64_t largest = std::max<int64_t>(1, largest_sum / asked.ranks);
    for (int rank = 0; rank < asked.ranks; ++rank) {
      uint64_t state = 0x9e3779b97f4a7c15u * static_cast<uint64_t>(rank + 1);
      std::vector<int32_t> numbers(kPeriod);
      for (int32_t& number : numbers) {
        state ^= state << 13, state ^= state >> 7, state ^= state << 17;
        number = static_cast<int32_t>(static_cast<int64_t>(state % static_cast<uint64_t>(2 * largest + 1)) - largest);
      }
      std::vector<float> floats(numbers.begin(), numbers.end());
      std::vector<std::byte> held(floats.size() * size_of(asked.dtype));
      convert(floats.data(), DType::float32, held.data(), asked.dtype, floats.size());
      numbers_.push_back(std::move(numbers));
      held_.push_back(std::move(held));
    }
  }

  // The numbers of a rank repeat, at a prime distance: a whole message from memory that stays in a cache.
  void produce(int rank, void* x, int64_t count) const {
    const std::vector<std::byte>& held = held_[static_cast<size_t>(rank)];
    const size_t bytes = static_cast<size_t>(count) * size_of(asked_.dtype);
    for (size_t at = 0; at < bytes; at += held.size()) {
      std::memcpy(static_cast<std::byte*>(x) + at, held.data(), std::min(held.size(), bytes - at));
    }
  }

  // The numbers of a rank as the data type holds them, which repeat.
  const std::vector<std::byte>& numbers_of(int rank) const { return held_[static_cast<size_t>(rank)]; }

  // Elements [begin, begin + count) of `rank`'s result, of which the first is at `elements`, that are not what the collective must give.
  int64_t count_wrong(int rank, const void* elements, int64_t begin, int64_t count) const {
    constexpr int64_t kChunk = 4096;
    std::vector<float> got(kChunk);
    int64_t wrong = 0;
    for (int64_t start = 0; start < count; start += kChunk) {
      const int64_t here = std::min(kChunk, count - start);
      convert(static_cast<const std::byte*>(elements) + static_cast<size_t>(start) * size_of(asked_.dtype), asked_.dtype, got.data(),
              DType::float32, static_cast<size_t>(here));
      for (int64_t i = 0; i < here; ++i) wrong += got[static_cast<size_t>(i)] != static_cast<float>(expected(rank, begin + start + i));
    }
    return wrong;
  }
  int64_t count_wrong(int rank, const void* result) const { return count_wrong(rank, result, 0, asked_.result_count()); }

  // Of the element in the middle of a result: where a bench makes the smallest change to see that it is counted.
  size_t corrupted_byte() const { return static_cast<size_t>(asked_.result_count() / 2) * size_of(asked_.dtype); }
  void corrupt(void* result) const { static_cast<std::byte*>(result)[corrupted_byte()] ^= std::byte{1}; }

 private:
  static constexpr int64_t kPeriod = 262139;

  int64_t number(int rank, int64_t i) const { return numbers_[static_cast<size_t>(rank)][static_cast<size_t>(i % kPeriod)]; }
  int64_t sum(int64_t i) const {
    int64_t total = 0;
    for (int rank = 0; rank < asked_.ranks; ++rank) total += number(rank, i);
    return total;
  }
  int64_t expected(int rank, int64_t i) const {
    switch (asked_.collective) {
      case Collective::all_reduce: return sum(i);
      case Collective::reduce_scatter: return sum(rank * asked_.part + i);
      case Collective::all_gather: return number(static_cast<int>(i / asked_.part), i % asked_.part);
      case Collective::send_recv: return number((rank + asked_.ranks - 1) % asked_.ranks, i);
    }
    return 0;
  }

  const Question asked_;
  std::vector<std::vector<int32_t>> numbers_;         // [rank][kPeriod]
  std::vector<std::vector<std::byte>> held_;          // the same in the data type
};

// Where a rank's input and result are: one buffer in place, else two.
struct CollectiveViews {
  View x;
  View y;                                             // of all_reduce: x
};

inline CollectiveViews views_of(const Question& asked, int rank, void* first, void* second) {
  View x{first, asked.dtype, 1, asked.input_count()};
  View y{second, asked.dtype, 1, asked.result_count()};
  const size_t own = static_cast<size_t>(rank * asked.part) * size_of(asked.dtype);
  if (asked.collective == Collective::all_reduce) y.data = x.data;
  if (asked.in_place && asked.collective == Collective::all_gather) x.data = static_cast<std::byte*>(y.data) + own;
  if (asked.in_place && asked.collective == Collective::reduce_scatter) y.data = static_cast<std::byte*>(x.data) + own;
  return {x, y};
}
// Elements of the two buffers; 0: it is not needed.
inline int64_t first_buffer(const Question& asked) {
  return asked.in_place && asked.collective == Collective::all_gather ? 0 : asked.input_count();
}
inline int64_t second_buffer(const Question& asked) {
  const bool in_first = asked.collective == Collective::all_reduce || (asked.in_place && asked.collective == Collective::reduce_scatter);
  return in_first ? 0 : asked.result_count();
}

// One call on one rank; ranks are a ring.
inline void call_collective(Communicator& communicator, const Question& asked, const CollectiveViews& views, const std::vector<int64_t>& widths) {
  const int rank = communicator.rank();
  switch (asked.collective) {
    case Collective::all_reduce: return communicator.all_reduce(views.x);
    case Collective::all_gather: return communicator.all_gather(views.x, widths, views.y);
    case Collective::reduce_scatter: return communicator.reduce_scatter(views.x, widths, views.y);
    case Collective::send_recv:
      return communicator.send_receive(views.x, (rank + 1) % asked.ranks, views.y, (rank + asked.ranks - 1) % asked.ranks);
  }
}

}  // namespace heddle::test
