// The local communicator: sums and gathers against a plain reference, equal bits on every rank, and every way to fail.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstring>
#include <memory>
#include <thread>

#include "core/wait.h"
#include "local_ranks.h"
#include "test.h"
#include "tree_sum.h"

namespace heddle::test {
namespace {

using comm::create_local;
using std::chrono::milliseconds;

View view_of(std::vector<float>& values, int64_t rows, int64_t width) {
  return {values.data(), DType::float32, rows, width};
}

std::vector<float> input_of(int rank, uint64_t round, size_t count) {
  return Random(round * 64 + static_cast<uint64_t>(rank)).uniform_vector(count);
}

std::vector<float> reference_sum(int size, uint64_t round, size_t count) {
  std::vector<std::vector<float>> parts;
  for (int rank = 0; rank < size; ++rank) parts.push_back(input_of(rank, round, count));
  std::vector<float> total;
  for (size_t i = 0; i < count; ++i) {
    std::vector<float> terms;
    for (const std::vector<float>& part : parts) terms.push_back(part[i]);
    total.push_back(tree_sum(terms));
  }
  return total;
}

// Element counts around every boundary of the implementation: small and large path, cache lines, chunks.
size_t count_of(uint64_t round) {
  constexpr std::array<size_t, 12> counts = {1, 3, 16, 63, 1024, 1025, 4096, 4097, 5000, 8192, 20011, 65536};
  return counts[Random(round).next() % counts.size()];
}

void check_all_reduce(int size, uint64_t rounds) {
  Communicators communicators = create_local(size);
  check_all_succeeded(on_ranks(communicators, [&](Communicator& communicator) {
    for (uint64_t round = 0; round < rounds; ++round) {
      const size_t count = count_of(round);
      std::vector<float> values = input_of(communicator.rank(), round, count);
      communicator.all_reduce(view_of(values, 1, static_cast<int64_t>(count)));
      const std::vector<float> expected = reference_sum(size, round, count);
      if (!check(std::memcmp(values.data(), expected.data(), count * sizeof(float)) == 0, "size ", size, ", rank ",
                 communicator.rank(), ", round ", round, ", ", count,
                 " elements: not the bits of the sum by the tree")) {
        return;
      }
    }
  }));
}

}  // namespace

HEDDLE_TEST(local_all_reduce_equals_the_sum_by_the_tree_bit_by_bit) {
  for (const int size : {1, 2, 3, 4, 5, 6, 7, 8, 13}) check_all_reduce(size, 60);
}

// Nothing is done between the rounds, so a rank may run ahead as far as the barrier lets it.
HEDDLE_TEST(local_all_reduce_holds_over_thousands_of_mixed_rounds) {
  for (const int size : {2, 3, 8}) {
    Communicators communicators = create_local(size);
    check_all_succeeded(on_ranks(communicators, [&](Communicator& communicator) {
      std::vector<float> values(6000);
      for (int round = 0; round < 3000; ++round) {
        const int64_t count = round % 7 == 0 ? 4097 + round % 1000 : 1 + round % 64;
        for (int64_t i = 0; i < count; ++i)
          values[static_cast<size_t>(i)] = static_cast<float>(communicator.rank() + round % 100 + i);
        communicator.all_reduce(view_of(values, 1, count));
        for (int64_t i = 0; i < count; ++i) {
          const auto expected = static_cast<float>(size * (size - 1) / 2 + size * (round % 100 + i));
          if (values[static_cast<size_t>(i)] != expected) {
            check(false, "size ", size, ", round ", round, ", element ", i);
            return;
          }
        }
      }
    }));
  }
}

HEDDLE_TEST(local_all_reduce_of_half_precision_sums_in_float32) {
  for (const DType dtype : {DType::bfloat16, DType::float16}) {
    for (const size_t count : {100u, 30000u}) {
      Communicators communicators = create_local(3);
      check_all_succeeded(on_ranks(communicators, [&](Communicator& communicator) {
        std::vector<uint16_t> values(count);
        std::vector<float> expected(count, 0.0f);
        for (int rank = 0; rank < 3; ++rank) {
          std::vector<uint16_t> rounded(count);
          convert(input_of(rank, 1, count).data(), DType::float32, rounded.data(), dtype, count);
          if (rank == communicator.rank()) values = rounded;
          std::vector<float> part(count);
          convert(rounded.data(), dtype, part.data(), DType::float32, count);
          for (size_t i = 0; i < count; ++i) expected[i] += part[i];
        }
        std::vector<uint16_t> expected_bits(count);
        convert(expected.data(), DType::float32, expected_bits.data(), dtype, count);
        communicator.all_reduce({values.data(), dtype, 1, static_cast<int64_t>(count)});
        check(values == expected_bits, name_of(dtype), ", ", count, " elements");
      }));
    }
  }
}

HEDDLE_TEST(local_all_gather_takes_uneven_widths) {
  for (const int size : {1, 2, 3, 4, 8}) {
    for (const int64_t rows : {1, 7, 300}) {
      std::vector<int64_t> widths;
      int64_t total = 0;
      for (int rank = 0; rank < size; ++rank) widths.push_back(rank == 1 ? 0 : 5 + 3 * rank);
      for (const int64_t width : widths) total += width;
      Communicators communicators = create_local(size);
      check_all_succeeded(on_ranks(communicators, [&](Communicator& communicator) {
        const int64_t width = widths[static_cast<size_t>(communicator.rank())];
        std::vector<float> mine(static_cast<size_t>(rows * width) + 1);
        for (int64_t i = 0; i < rows * width; ++i)
          mine[static_cast<size_t>(i)] = static_cast<float>(communicator.rank() * 100000 + i);
        std::vector<float> all(static_cast<size_t>(rows * total));
        for (int round = 0; round < 3; ++round) {
          communicator.all_gather(view_of(mine, rows, width), widths, view_of(all, rows, total));
        }
        size_t next = 0;
        for (int64_t row = 0; row < rows; ++row) {
          for (int rank = 0; rank < size; ++rank) {
            for (int64_t column = 0; column < widths[static_cast<size_t>(rank)]; ++column) {
              const auto expected =
                  static_cast<float>(rank * 100000 + row * widths[static_cast<size_t>(rank)] + column);
              if (!check(all[next++] == expected, "size ", size, ", row ", row, ", rank ", rank, ", column ", column))
                return;
            }
          }
        }
      }));
    }
  }
}

HEDDLE_TEST(local_all_gather_refuses_widths_that_do_not_fit) {
  Communicators communicators = create_local(1);
  std::vector<float> x(8);
  std::vector<float> y(8);
  check_throws(ErrorCode::invalid_argument,
               [&] { communicators[0]->all_gather(view_of(x, 2, 4), {4, 4}, view_of(y, 2, 4)); });
  check_throws(ErrorCode::invalid_argument,
               [&] { communicators[0]->all_gather(view_of(x, 2, 4), {3}, view_of(y, 2, 4)); });
  check_throws(ErrorCode::invalid_argument,
               [&] { communicators[0]->all_gather(view_of(x, 2, 4), {4}, view_of(y, 4, 2)); });
  check_throws(ErrorCode::invalid_argument, [] { create_local(0); });
}

HEDDLE_TEST(local_exchange_gives_the_bytes_of_every_rank) {
  for (const int size : {1, 2, 4}) {
    for (const size_t bytes : {size_t{1}, size_t{24}, size_t{16384}, size_t{50001}}) {
      Communicators communicators = create_local(size);
      check_all_succeeded(on_ranks(communicators, [&](Communicator& communicator) {
        const std::vector<uint8_t> mine(bytes, static_cast<uint8_t>(communicator.rank() + 1));
        std::vector<uint8_t> all(bytes * static_cast<size_t>(size));
        communicator.exchange(mine.data(), bytes, all.data());
        for (size_t i = 0; i < all.size(); ++i) {
          if (!check(all[i] == i / bytes + 1, "size ", size, ", ", bytes, " bytes, byte ", i)) return;
        }
      }));
    }
  }
}

HEDDLE_TEST(local_more_ranks_than_cores_work) {
  const int size = usable_cores() * 2 + 1;
  Communicators communicators = create_local(size);
  check_all_succeeded(on_ranks(communicators, [&](Communicator& communicator) {
    for (int round = 0; round < 200; ++round) {
      std::vector<float> values(round % 2 == 0 ? 10 : 5000, 1.0f);
      communicator.all_reduce(view_of(values, 1, static_cast<int64_t>(values.size())));
      if (!check(values.front() == static_cast<float>(size) && values.back() == static_cast<float>(size), "round ",
                 round))
        return;
    }
  }));
}

HEDDLE_TEST(local_abort_wakes_ranks_that_sleep) {
  for (const int64_t count : {4, 40000}) {
    Communicators communicators = create_local(3);
    std::thread aborter([&] {
      std::this_thread::sleep_for(milliseconds(50));
      communicators[2]->abort("rank 2: out of paper");
      communicators[2]->abort("a later reason");
    });
    const std::vector<Outcome> outcomes = on_ranks(communicators, [&](Communicator& communicator) {
      if (communicator.rank() == 2) return;
      std::vector<float> values(static_cast<size_t>(count));
      communicator.all_reduce(view_of(values, 1, count));
    });
    aborter.join();
    for (const size_t rank : {0u, 1u}) {
      check(outcomes[rank].failed && outcomes[rank].code == ErrorCode::peer_failed, "rank ", rank,
            " must fail with peer_failed");
      check(outcomes[rank].text.find("out of paper") != std::string::npos, "rank ", rank,
            " got the reason: ", outcomes[rank].text);
    }
    std::vector<float> values(1);
    check_throws(ErrorCode::peer_failed, [&] { communicators[2]->all_reduce(view_of(values, 1, 1)); }, "a later call");
  }
}

// Buffers are freed as soon as a rank has its error: the address sanitizer sees a peer that would still touch them.
// They are large, so that most of a collective is touching.
HEDDLE_TEST(local_abort_at_any_moment_leaves_no_peer_in_freed_memory) {
  constexpr size_t count = 2000000;
  Random random(7);
  for (int round = 0; round < 25; ++round) {
    Communicators communicators = create_local(3);
    std::atomic<bool> started{false};
    std::thread aborter([&, pause = random.below(4000)] {
      while (!started) std::this_thread::yield();
      std::this_thread::sleep_for(std::chrono::microseconds(pause));
      communicators[0]->abort("stop");
    });
    const std::vector<Outcome> outcomes = on_ranks(communicators, [&](Communicator& communicator) {
      const auto values = std::make_unique<std::vector<float>>(count, 1.0f);
      for (;;) {
        started = true;
        communicator.all_reduce(view_of(*values, 1, count));
      }
    });
    aborter.join();
    for (const Outcome& outcome : outcomes)
      check(outcome.failed && outcome.code == ErrorCode::peer_failed, outcome.text);
  }
}

// Whether something that depends on time holds. A rank that is merely late looks like one that is missing, so a machine
// that is slow or busy gets more of it: what is broken fails at any speed.
template <typename Holds>
bool at_some_speed(const Holds& holds) {
  for (const int slowness : {1, 5, 25}) {
    if (holds(slowness)) return true;
  }
  return false;
}

// What is wrong with the errors of ranks 0 and 2 where rank 1 misses the second collective; empty: nothing.
std::string trouble_with_timeout(milliseconds timeout) {
  Communicators communicators = create_local(3, {timeout});
  const std::vector<Outcome> outcomes = on_ranks(communicators, [](Communicator& communicator) {
    std::vector<float> values(32);
    communicator.all_reduce(view_of(values, 1, 32));
    if (communicator.rank() == 1) return;
    communicator.all_reduce(view_of(values, 1, 32));
  });
  const std::string title =
      "all-reduce #2 (128 B, float32) not finished after " + std::to_string(timeout.count()) + " ms";
  int timeouts = 0;
  for (const size_t rank : {0u, 2u}) {
    const Outcome& outcome = outcomes[rank];
    if (!outcome.failed) return "rank " + std::to_string(rank) + " must fail";
    timeouts += outcome.code == ErrorCode::timeout;
    if (outcome.text.find(title) != 0) return "expected " + title + ", got " + outcome.text;
    if (outcome.text.find("rank 1  entered #1  finished #1  <-- never reached #2") == std::string::npos)
      return outcome.text;
    if (outcome.text.find("<--") != outcome.text.rfind("<--")) return "one rank alone is missing: " + outcome.text;
  }
  return timeouts > 0 ? "" : "at least one rank reports the timeout itself";
}

HEDDLE_TEST(local_timeout_names_the_rank_that_is_missing) {
  std::string trouble;
  const bool named = at_some_speed([&](int slowness) {
    trouble = trouble_with_timeout(milliseconds(60 * slowness));
    return trouble.empty();
  });
  check(named, trouble);
}

#if !defined(__SANITIZE_THREAD__)  // which starts no threads in a forked process

// Two ranks of which one is late: it stops the whole process for longer than the timeout before it arrives.
int exit_status_of_a_stopped_process(int slowness) {
  Communicators communicators = create_local(2, {milliseconds(800 * slowness)});
  const std::vector<Outcome> outcomes = on_ranks(communicators, [](Communicator& communicator) {
    if (communicator.rank() == 1) {
      std::this_thread::sleep_for(milliseconds(50));
      ::raise(SIGSTOP);
      std::this_thread::sleep_for(milliseconds(50));  // the other rank looks at its clock first
    }
    std::vector<float> values(32);
    communicator.all_reduce(view_of(values, 1, 32));
  });
  return outcomes[0].failed || outcomes[1].failed ? 1 : 0;
}

HEDDLE_TEST(local_time_in_which_the_process_is_stopped_does_not_count) {
  const bool went_on = at_some_speed([](int slowness) {
    const pid_t child = ::fork();
    if (child == 0) ::_exit(exit_status_of_a_stopped_process(slowness));
    if (!check(child > 0, "a second process")) return false;
    int status = 0;
    ::waitpid(child, &status, WUNTRACED);
    if (!check(WIFSTOPPED(status), "the process stops")) return false;
    std::this_thread::sleep_for(milliseconds(1000 * slowness));
    ::kill(child, SIGCONT);
    ::waitpid(child, &status, 0);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
  });
  check(went_on, "the ranks go on where they were");
}

#endif

HEDDLE_TEST(local_ranks_out_of_step_fail_before_data_is_used) {
  struct Case {
    int64_t first;
    int64_t second;
    bool gather;
  };
  for (const Case& step :
       {Case{32, 64, false}, Case{32, 50000, false}, Case{40000, 50000, false}, Case{32, 32, true}}) {
    Communicators communicators = create_local(2);
    const std::vector<Outcome> outcomes = on_ranks(communicators, [&](Communicator& communicator) {
      const int64_t count = communicator.rank() == 0 ? step.first : step.second;
      std::vector<float> values(static_cast<size_t>(count), 1.0f);
      if (step.gather && communicator.rank() == 1) {
        std::vector<float> all(2 * values.size());
        return communicator.exchange(values.data(), values.size() * sizeof(float), all.data());
      }
      communicator.all_reduce(view_of(values, 1, count));
    });
    int mismatches = 0;
    for (const Outcome& outcome : outcomes) {
      check(outcome.failed, "both ranks must fail");
      mismatches += outcome.code == ErrorCode::collective_failed;
      check(outcome.code == ErrorCode::collective_failed || outcome.code == ErrorCode::peer_failed, outcome.text);
      check(outcome.text.find("of rank 0 met") != std::string::npos ||
                outcome.text.find("of rank 1 met") != std::string::npos,
            outcome.text);
    }
    check(mismatches >= 1, "at least one rank reports the mismatch itself");
  }
}

}  // namespace heddle::test
