// Reduce-scatter and send-receive of the local communicator: against plain sums in every data type, and every way to
// fail. Rule: outputs start as NaN between guards, so that what is left out or written too far shows.
#include <array>
#include <atomic>
#include <chrono>
#include <cstring>
#include <limits>
#include <numeric>

#include "core/dtype.h"
#include "local_ranks.h"
#include "test.h"
#include "tree_sum.h"

namespace heddle::test {
namespace {

using comm::create_local;

constexpr std::array<DType, 3> kTypes = {DType::float32, DType::bfloat16, DType::float16};
constexpr size_t kGuard = 16;                         // elements behind an output

// Values that the data type holds exactly, the same whoever asks.
std::vector<float> values_of(int rank, uint64_t seed, size_t count, DType dtype) {
  std::vector<float> values = Random(seed * 64 + static_cast<uint64_t>(rank)).uniform_vector(count);
  if (dtype == DType::float32) return values;
  std::vector<uint16_t> held(count);
  convert(values.data(), DType::float32, held.data(), dtype, count);
  convert(held.data(), dtype, values.data(), DType::float32, count);
  return values;
}

std::vector<std::byte> encoded(const std::vector<float>& values, DType dtype, size_t guard = 0) {
  std::vector<float> all = values;
  all.insert(all.end(), guard, 77.0f);
  std::vector<std::byte> bytes(all.size() * size_of(dtype));
  if (!all.empty()) convert(all.data(), DType::float32, bytes.data(), dtype, all.size());
  return bytes;
}

// An output of `count` elements that are NaN, and a guard.
std::vector<std::byte> unwritten(size_t count, DType dtype) {
  return encoded(std::vector<float>(count, std::numeric_limits<float>::quiet_NaN()), dtype, kGuard);
}

struct Split {
  int64_t rows;
  std::vector<int64_t> widths;

  int64_t total() const { return std::accumulate(widths.begin(), widths.end(), int64_t{0}); }
  int64_t first(int rank) const { return std::accumulate(widths.begin(), widths.begin() + rank, int64_t{0}); }
};

// In float32 and by the tree, rounded once.
std::vector<float> sum_of_part(int rank, const Split& split, uint64_t seed, DType dtype) {
  std::vector<float> part;
  std::vector<std::vector<float>> inputs;
  for (size_t peer = 0; peer < split.widths.size(); ++peer) {
    inputs.push_back(values_of(static_cast<int>(peer), seed, static_cast<size_t>(split.rows * split.total()), dtype));
  }
  for (int64_t row = 0; row < split.rows; ++row) {
    for (int64_t column = 0; column < split.widths[static_cast<size_t>(rank)]; ++column) {
      const auto at = static_cast<size_t>(row * split.total() + split.first(rank) + column);
      std::vector<float> terms;
      for (const auto& input : inputs) terms.push_back(input[at]);
      part.push_back(tree_sum(terms));
    }
  }
  return part;
}

std::string text_of(const Split& split, DType dtype) {
  std::string text = std::to_string(split.rows) + " rows of";
  for (const int64_t width : split.widths) text.append(1, ' ').append(std::to_string(width));
  return text.append(1, ' ').append(name_of(dtype));
}

void check_bytes(const std::vector<std::byte>& actual, const std::vector<std::byte>& expected, const std::string& what) {
  check(actual == expected, what, ": not the expected bits");
}

void reduce_scatter_once(Communicator& communicator, const Split& split, uint64_t seed, DType dtype) {
  const int rank = communicator.rank();
  const int64_t width = split.widths[static_cast<size_t>(rank)];
  const auto count = static_cast<size_t>(split.rows * split.total());
  std::vector<std::byte> x = encoded(values_of(rank, seed, count, dtype), dtype);
  const std::vector<std::byte> before = x;
  std::vector<std::byte> y = unwritten(static_cast<size_t>(split.rows * width), dtype);
  communicator.reduce_scatter({x.data(), dtype, split.rows, split.total()}, split.widths,
                              {y.data(), dtype, split.rows, width});
  const std::string what = "rank " + std::to_string(rank) + ", " + text_of(split, dtype);
  check_bytes(y, encoded(sum_of_part(rank, split, seed, dtype), dtype, kGuard), what);
  check_bytes(x, before, what + ": the input");
}

Split even(int size, int64_t rows, int64_t width) {
  return {rows, std::vector<int64_t>(static_cast<size_t>(size), width)};
}

Split uneven(int size, int64_t rows) {
  Split split{rows, {}};
  for (int rank = 0; rank < size; ++rank) split.widths.push_back(rank == 1 ? 0 : 5 + 31 * rank);
  return split;
}

std::vector<std::byte> sent_by(int rank, uint64_t round, size_t bytes) {
  std::vector<std::byte> data(bytes);
  for (size_t i = 0; i < bytes; ++i) data[i] = static_cast<std::byte>(i * 31 + static_cast<size_t>(rank) * 7 + round);
  return data;
}

int64_t count_at(uint64_t round) {
  constexpr std::array<int64_t, 8> counts = {1, 3, 1000, 1024, 1025, 2048, 2049, 70001};
  return counts[round % counts.size()];
}

}  // namespace

HEDDLE_TEST(local_reduce_scatter_equals_the_sum_by_the_tree_bit_by_bit) {
  for (int size = 1; size <= 8; ++size) {
    for (const DType dtype : kTypes) {
      Communicators communicators = create_local(size);
      check_all_succeeded(on_ranks(communicators, [&](Communicator& communicator) {
        uint64_t seed = 0;
        for (const int64_t width : {1, 7, 64, 513, 2049, 4097}) {
          reduce_scatter_once(communicator, even(size, 1, width), ++seed, dtype);
        }
        for (const int64_t rows : {3, 40}) {
          reduce_scatter_once(communicator, even(size, rows, 33), ++seed, dtype);
          reduce_scatter_once(communicator, uneven(size, rows), ++seed, dtype);
        }
        reduce_scatter_once(communicator, even(size, 0, 4), ++seed, dtype);
      }));
    }
  }
}

HEDDLE_TEST(local_reduce_scatter_into_the_input) {
  for (const int64_t width : {5, 3001}) {
    Communicators communicators = create_local(4);
    check_all_succeeded(on_ranks(communicators, [&](Communicator& communicator) {
      const Split split = even(4, 1, width);
      const int rank = communicator.rank();
      std::vector<float> x = values_of(rank, 9, static_cast<size_t>(split.total()), DType::float32);
      std::vector<float> expected = x;
      const std::vector<float> part = sum_of_part(rank, split, 9, DType::float32);
      std::copy(part.begin(), part.end(), expected.begin() + split.first(rank));
      communicator.reduce_scatter({x.data(), DType::float32, 1, split.total()}, split.widths,
                                  {x.data() + split.first(rank), DType::float32, 1, width});
      check(x == expected, "rank ", rank, ": expected its own part alone to change");
    }));
  }
}

HEDDLE_TEST(local_all_gather_from_the_result) {
  for (const int64_t width : {5, 3001}) {
    Communicators communicators = create_local(3);
    check_all_succeeded(on_ranks(communicators, [&](Communicator& communicator) {
      const Split split = even(3, 1, width);
      const int rank = communicator.rank();
      std::vector<float> y(static_cast<size_t>(split.total()), -1.0f);
      std::vector<float> expected;
      for (int peer = 0; peer < 3; ++peer) {
        const std::vector<float> part = values_of(peer, 4, static_cast<size_t>(width), DType::float32);
        expected.insert(expected.end(), part.begin(), part.end());
        if (peer == rank) std::copy(part.begin(), part.end(), y.begin() + split.first(rank));
      }
      communicator.all_gather({y.data() + split.first(rank), DType::float32, 1, width}, split.widths,
                              {y.data(), DType::float32, 1, split.total()});
      check(y == expected, "rank ", rank, ": expected the parts of all ranks");
    }));
  }
}

HEDDLE_TEST(local_send_receive_moves_what_the_peer_gave) {
  for (int size = 1; size <= 8; ++size) {
    for (const DType dtype : kTypes) {
      Communicators communicators = create_local(size);
      check_all_succeeded(on_ranks(communicators, [&](Communicator& communicator) {
        const int rank = communicator.rank();
        for (uint64_t round = 0; round < 24; ++round) {
          const int step = static_cast<int>(round) % size;  // 0: to itself
          const int64_t count = count_at(round);
          const size_t bytes = static_cast<size_t>(count) * size_of(dtype);
          std::vector<std::byte> x = sent_by(rank, round, bytes);
          std::vector<std::byte> y(bytes + 1, std::byte{99});
          const int from = (rank + size - step) % size;
          communicator.send_receive({x.data(), dtype, 1, count}, (rank + step) % size, {y.data(), dtype, count, 1}, from);
          std::vector<std::byte> expected = sent_by(from, round, bytes);
          expected.push_back(std::byte{99});
          if (!check(y == expected, "size ", size, ", rank ", rank, ", round ", round, ", ", name_of(dtype))) return;
        }
      }));
    }
  }
}

// Pairs know nothing of other pairs, and nothing is done between the rounds, so ranks run ahead as far as they may.
HEDDLE_TEST(local_collectives_of_every_kind_one_after_another) {
  constexpr int kSize = 4;
  Communicators communicators = create_local(kSize);
  check_all_succeeded(on_ranks(communicators, [&](Communicator& communicator) {
    const int rank = communicator.rank();
    Random random(21);                                // the same on every rank
    for (uint64_t round = 0; round < 400; ++round) {
      const auto kind = random.below(3);
      const int64_t count = random.below(5) == 0 ? 3000 + random.below(3000) : 1 + random.below(300);
      if (kind == 0) {
        reduce_scatter_once(communicator, even(kSize, 1, count), round, DType::float32);
      } else if (kind == 1) {
        std::vector<float> x(static_cast<size_t>(count), static_cast<float>(rank * 1000) + static_cast<float>(round));
        std::vector<float> y(x.size());
        const int peer = rank ^ 1;
        communicator.send_receive({x.data(), DType::float32, 1, count}, peer, {y.data(), DType::float32, 1, count}, peer);
        const float expected = static_cast<float>(peer * 1000) + static_cast<float>(round);
        if (!check(y.front() == expected && y.back() == expected, "round ", round)) return;
      } else {
        std::vector<float> x(static_cast<size_t>(count), static_cast<float>(rank));
        communicator.all_reduce({x.data(), DType::float32, 1, count});
        if (!check(x.front() == 6.0f && x.back() == 6.0f, "round ", round)) return;
      }
    }
  }));
}

HEDDLE_TEST(local_parts_refuse_what_does_not_fit) {
  Communicators communicators = create_local(1);
  Communicator& alone = *communicators[0];
  std::vector<float> x(8);
  std::vector<float> y(8);
  const auto view = [](std::vector<float>& values, int64_t rows, int64_t width, DType dtype = DType::float32) {
    return View{values.data(), dtype, rows, width};
  };
  const auto refused = [](const std::function<void()>& body) { check_throws(ErrorCode::invalid_argument, body); };
  refused([&] { alone.reduce_scatter(view(x, 2, 4), {4, 4}, view(y, 2, 4)); });
  refused([&] { alone.reduce_scatter(view(x, 2, 4), {3}, view(y, 2, 4)); });
  refused([&] { alone.reduce_scatter(view(x, 2, 4), {-4}, view(y, 2, 4)); });
  refused([&] { alone.reduce_scatter(view(x, 2, 4), {4}, view(y, 4, 2)); });
  refused([&] { alone.reduce_scatter(view(x, 2, 4), {4}, view(y, 2, 4, DType::bfloat16)); });
  refused([&] { alone.send_receive(view(x, 1, 8), 1, view(y, 1, 8), 0); });
  refused([&] { alone.send_receive(view(x, 1, 8), 0, view(y, 1, 8), -1); });
  refused([&] { alone.send_receive(view(x, 1, 8), 0, view(y, 1, 7), 0); });
  refused([&] { alone.send_receive(view(x, 1, 8), 0, view(y, 1, 8, DType::float16), 0); });
}

HEDDLE_TEST(local_send_receive_of_ranks_that_disagree_fails_before_data_is_used) {
  for (const int64_t count : {8, 40000}) {
    Communicators communicators = create_local(3);
    std::vector<std::vector<float>> results(3, std::vector<float>(static_cast<size_t>(count), -1.0f));
    const std::vector<Outcome> outcomes = on_ranks(communicators, [&](Communicator& communicator) {
      const int rank = communicator.rank();
      std::vector<float> x(static_cast<size_t>(count), 1.0f);
      std::vector<float>& y = results[static_cast<size_t>(rank)];
      // rank 0 waits for rank 1, which sends to rank 2
      communicator.send_receive({x.data(), DType::float32, 1, count}, (rank + 1) % 3, {y.data(), DType::float32, 1, count},
                                rank == 0 ? 1 : (rank + 2) % 3);
      std::vector<float> z(1);
      communicator.all_reduce({z.data(), DType::float32, 1, 1});
    });
    for (const Outcome& outcome : outcomes) check(outcome.failed, "every rank must fail");
    check(outcomes[0].code == ErrorCode::collective_failed, outcomes[0].text);
    check(outcomes[0].text.find("expected to receive from rank 1, which sends to rank 2") != std::string::npos,
          outcomes[0].text);
    check(results[0].front() == -1.0f && results[0].back() == -1.0f, "nothing is written on the rank that was wrong");
  }
}

// Buffers are freed as soon as a rank has its error: the address sanitizer sees a peer that would still read them.
HEDDLE_TEST(local_parts_abort_at_any_moment_leaves_no_peer_in_freed_memory) {
  constexpr int64_t kCount = 300000;
  Random random(5);
  for (int round = 0; round < 20; ++round) {
    Communicators communicators = create_local(3);
    std::atomic<bool> started{false};
    std::thread aborter([&, pause = random.below(2000)] {
      while (!started) std::this_thread::yield();
      std::this_thread::sleep_for(std::chrono::microseconds(pause));
      communicators[1]->abort("stop");
    });
    const std::vector<Outcome> outcomes = on_ranks(communicators, [&](Communicator& communicator) {
      const int rank = communicator.rank();
      const auto x = std::make_unique<std::vector<float>>(3 * kCount, 1.0f);
      const auto y = std::make_unique<std::vector<float>>(3 * kCount);
      for (;;) {
        started = true;
        communicator.reduce_scatter({x->data(), DType::float32, 1, 3 * kCount}, {kCount, kCount, kCount},
                                    {y->data(), DType::float32, 1, kCount});
        communicator.send_receive({x->data(), DType::float32, 3, kCount}, (rank + 1) % 3,
                                  {y->data(), DType::float32, 3, kCount}, (rank + 2) % 3);
      }
    });
    aborter.join();
    for (const Outcome& outcome : outcomes) check(outcome.failed && outcome.code == ErrorCode::peer_failed, outcome.text);
  }
}

}  // namespace heddle::test
