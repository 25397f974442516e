// Reduce-scatter and send-receive among ranks on GPUs: against sums in the order of a tree, eager and in a graph, over `local` and over NCCL.
#include <cmath>
#include <cstdlib>
#include <numeric>

#include "collective_reference.h"
#include "comm/nccl/nccl.h"
#include "cuda/dynlib.h"
#include "rank_threads.h"

namespace heddle::test {
namespace {

using cuda::Device;
using cuda::DeviceCommunicator;
using Widths = std::vector<int64_t>;

int64_t total_of(const Widths& widths) { return std::accumulate(widths.begin(), widths.end(), int64_t{0}); }

// The columns of one rank.
std::vector<float> columns_of(const std::vector<float>& whole, int64_t rows, const Widths& widths, int rank) {
  const int64_t first = std::accumulate(widths.begin(), widths.begin() + rank, int64_t{0});
  std::vector<float> part;
  for (int64_t row = 0; row < rows; ++row) {
    const auto begin = whole.begin() + row * total_of(widths) + first;
    part.insert(part.end(), begin, begin + widths[static_cast<size_t>(rank)]);
  }
  return part;
}

// `rounding`: 0 where the order is ours.
void reduce_scatter_once(const Device& device, DeviceCommunicator& communicator, int64_t rows, const Widths& widths, DType dtype, uint64_t seed,
                         int64_t offset = 0, double rounding = 0) {
  const int rank = communicator.rank();
  const int64_t width = widths[static_cast<size_t>(rank)];
  const int64_t count = rows * total_of(widths);
  const std::string what = "reduce_scatter of " + std::to_string(rows) + " x " + std::to_string(total_of(widths)) + " " + name_of(dtype) +
                           " on rank " + std::to_string(rank) + " of " + std::to_string(widths.size());
  const std::vector<float> mine = values_of(rank, count, dtype, seed);
  const DeviceMatrix x(device, Matrix(rows, total_of(widths), mine), dtype, offset);
  const DeviceMatrix y(device, rows, width, dtype, offset);
  communicator.reduce_scatter(x.view(), widths, y.view());
  const std::vector<float> expected = columns_of(as_held(sum_of(communicator.size(), count, dtype, seed), dtype), rows, widths, rank);
  const std::vector<float> got = y.read(what);
  if (rounding == 0) {
    check_equal(got, expected, what);
  } else {
    for (size_t i = 0; i < expected.size(); ++i) {
      if (!check_close(got[i], expected[i], rounding * (1 + std::abs(expected[i])), what, ": element ", i)) return;
    }
  }
  check_equal(x.read(what), mine, what + ": the input");
}

// What rank `rank` sends in a round; 8-bit integers, which every data type holds.
std::vector<float> sent_by(int rank, uint64_t round, int64_t count) {
  std::vector<float> values(static_cast<size_t>(count));
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>((i * 31 + static_cast<size_t>(rank) * 57 + round * 5) % 251);
  return values;
}

void send_receive_once(const Device& device, DeviceCommunicator& communicator, int to, int from, int64_t count, DType dtype, uint64_t round,
                       int64_t offset = 0) {
  const std::string what = "send_receive of " + std::to_string(count) + " " + name_of(dtype) + " on rank " +
                           std::to_string(communicator.rank()) + " of " + std::to_string(communicator.size());
  const DeviceMatrix x(device, Matrix(1, count, sent_by(communicator.rank(), round, count)), dtype, offset);
  const DeviceMatrix y(device, 1, count, dtype, offset);
  communicator.send_receive(x.view(), to, y.view(), from);
  check_equal(y.read(what), sent_by(from, round, count), what);
}

constexpr DType kTypes[] = {DType::float32, DType::bfloat16, DType::float16};

HEDDLE_TEST(reduce_scatter_sums_in_rank_order) {
  for (const int size : {1, 2, 3, 4, 8}) {
    for (const DType dtype : kTypes) {
      on_ranks(size, [&](const Device& device, DeviceCommunicator& communicator) {
        uint64_t seed = 0;
        for (const int64_t width : {1, 7, 1024, 3001}) {
          reduce_scatter_once(device, communicator, 1, Widths(static_cast<size_t>(size), width), dtype, ++seed);
        }
        reduce_scatter_once(device, communicator, 0, Widths(static_cast<size_t>(size), 3), dtype, ++seed);
        communicator.expect_healthy();
      });
    }
  }
}

HEDDLE_TEST(reduce_scatter_of_uneven_columns) {
  const Widths widths = {5, 0, 130, 33};
  for (const DType dtype : kTypes) {
    on_ranks(4, [&](const Device& device, DeviceCommunicator& communicator) {
      for (const int64_t rows : {1, 9}) reduce_scatter_once(device, communicator, rows, widths, dtype, 3);
    });
  }
}

HEDDLE_TEST(reduce_scatter_of_many_and_of_unaligned_elements) {
  on_ranks(3, [](const Device& device, DeviceCommunicator& communicator) {
    reduce_scatter_once(device, communicator, 1, {400001, 400001, 400001}, DType::float32, 1);
    reduce_scatter_once(device, communicator, 1, {9001, 9001, 9001}, DType::bfloat16, 2, 3);
    reduce_scatter_once(device, communicator, 7, {515, 516, 514}, DType::float16, 3, 1);
  });
}

HEDDLE_TEST(reduce_scatter_into_the_input) {
  on_ranks(4, [](const Device& device, DeviceCommunicator& communicator) {
    const int rank = communicator.rank();
    const Widths widths(4, 70001);
    const DeviceMatrix x(device, Matrix(1, total_of(widths), values_of(rank, total_of(widths), DType::float32, 8)));
    View y = x.view();
    y.data = y.floats() + rank * widths[0];
    y.width = widths[0];
    communicator.reduce_scatter(x.view(), widths, y);
    std::vector<float> expected = values_of(rank, total_of(widths), DType::float32, 8);
    const std::vector<float> part = columns_of(sum_of(4, total_of(widths), DType::float32, 8), 1, widths, rank);
    std::copy(part.begin(), part.end(), expected.begin() + rank * widths[0]);
    check_equal(x.read(), expected, "its own part alone changes");
  });
}

HEDDLE_TEST(send_receive_moves_what_the_peer_gave) {
  for (const int size : {1, 2, 3, 8}) {
    on_ranks(size, [&](const Device& device, DeviceCommunicator& communicator) {
      uint64_t round = 0;
      for (const int64_t count : {int64_t{1}, int64_t{13}, int64_t{4096}, int64_t{200003}, int64_t{0}}) {
        const int step = static_cast<int>(++round) % size;
        const int rank = communicator.rank();
        const DType dtype = kTypes[round % 3];
        send_receive_once(device, communicator, (rank + step) % size, (rank + size - step) % size, count, dtype, round, count % 2);
      }
      communicator.expect_healthy();
    });
  }
}

// More rounds than may be under way, and pairs that know nothing of the other pair: what is in the staging memory of one collective
// must not be written over by the next.
HEDDLE_TEST(collectives_of_every_kind_one_after_another) {
  constexpr int kSize = 4;
  on_ranks(kSize, [](const Device& device, DeviceCommunicator& communicator) {
    const int rank = communicator.rank();
    Random random(17);                                // the same on every rank
    for (uint64_t round = 0; round < 60; ++round) {
      const int64_t count = random.below(6) == 0 ? 70000 + random.below(90000) : 1 + random.below(2000);
      switch (random.below(3)) {
        case 0: reduce_scatter_once(device, communicator, 1, Widths(kSize, count), DType::float32, round); break;
        case 1: send_receive_once(device, communicator, rank ^ 1, rank ^ 1, count, DType::float32, round); break;
        default: {
          const DeviceMatrix x(device, Matrix(1, count, values_of(rank, count, DType::float32, round)));
          communicator.all_reduce(x.view());
          check_equal(x.read(), sum_of(kSize, count, DType::float32, round), "round " + std::to_string(round));
        }
      }
    }
  });
}

HEDDLE_TEST(collectives_of_parts_in_a_graph) {
  constexpr int kSize = 4;
  constexpr int64_t kCount = 5000;
  on_ranks(kSize, [](const Device& device, DeviceCommunicator& communicator) {
    const int rank = communicator.rank();
    DeviceMatrix x(device, 1, kSize * kCount);
    const DeviceMatrix part(device, 1, kCount);
    const DeviceMatrix moved(device, 1, kCount);
    const DeviceMatrix all(device, 1, kSize * kCount);
    const Widths widths = {kCount, kCount, kCount, kCount};
    const CapturedGraph graph(device, communicator, [&] {
      communicator.reduce_scatter(x.view(), widths, part.view());
      communicator.send_receive(part.view(), (rank + 1) % kSize, moved.view(), (rank + kSize - 1) % kSize);
      communicator.all_gather(moved.view(), widths, all.view());
    });
    for (uint64_t round = 0; round < 4; ++round) {
      x.write(values_of(rank, kSize * kCount, DType::float32, round));
      graph.launch();
      const std::vector<float> sum = sum_of(kSize, kSize * kCount, DType::float32, round);
      std::vector<float> turned(sum.end() - kCount, sum.end());
      turned.insert(turned.end(), sum.begin(), sum.end() - kCount);
      check_equal(all.read(), turned, "replay " + std::to_string(round));
    }
  });
}

HEDDLE_TEST(collectives_of_parts_end_by_an_abort) {
  for (const bool scatter : {true, false}) {
    DeviceCommunicators communicators = local_communicators(3);
    std::vector<std::thread> threads;
    for (int rank = 0; rank < 3; ++rank) {
      threads.emplace_back([&, rank] {
        const Device device(0, rank);
        DeviceCommunicator& communicator = *communicators[static_cast<size_t>(rank)];
        try {
          communicator.attach(device);
        } catch (const Error& error) {                // a quick peer has aborted already
          check(error.code() == ErrorCode::peer_failed, "attach: ", error.what());
          return;
        }
        if (rank == 2) return communicator.abort("rank 2 had enough");
        const DeviceMatrix x(device, Matrix(1, 300));
        const DeviceMatrix y(device, 1, scatter ? 100 : 300);
        if (scatter) {
          communicator.reduce_scatter(x.view(), {100, 100, 100}, y.view());
        } else {
          communicator.send_receive(x.view(), (rank + 1) % 3, y.view(), (rank + 2) % 3);
        }
        wait_for(device);                             // must end
        // rank 0 sends to rank 1 and waits for rank 2; so does rank 1, for its data to be read
        check_throws(ErrorCode::peer_failed, [&] { communicator.expect_healthy(); });
      });
    }
    for (std::thread& thread : threads) thread.join();
  }
}

// Four GPUs of the emulator, else those that are there.
struct Gpus {
  Gpus() { setenv("HEDDLE_EMULATOR_DEVICES", "4", 1); }
  ~Gpus() { unsetenv("HEDDLE_EMULATOR_DEVICES"); }
  std::vector<int> ordinals() const {
    int count = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess) count = 0;
    std::vector<int> all(static_cast<size_t>(std::min(count, 4)));
    std::iota(all.begin(), all.end(), 0);
    return all;
  }
};

// body(device, communicator) on ranks over NCCL, one on each GPU; nothing where there are less than two, or NCCL is not here.
template <class Body>
void on_nccl_ranks(bool reproducible, const Body& body) {
  const Gpus gpus;
  const std::vector<int> ordinals = gpus.ordinals();
  std::string text;
  const auto table = cuda::load_nccl({}, text);
#if defined(HEDDLE_CUDA_EMULATED)
  if (!std::getenv("HEDDLE_NCCL_LIB")) return;        // not started by scripts/native-tests.js
  if (!check(table != nullptr, text)) return;
#endif
  if (!table || ordinals.size() < 2) return;
  const auto size = static_cast<int>(ordinals.size());
  DeviceCommunicators communicators = comm::create_nccl(*table, host_communicators(size), {}, reproducible);
  on_ranks(communicators, ordinals, body);
}

HEDDLE_TEST(collectives_of_parts_over_nccl) {
  on_nccl_ranks(false, [](const Device& device, DeviceCommunicator& communicator) {
    const int rank = communicator.rank(), size = communicator.size();
    for (const DType dtype : kTypes) {
      const double rounding = 4 * rounding_of(dtype);
      reduce_scatter_once(device, communicator, 1, Widths(static_cast<size_t>(size), 1001), dtype, 1, 0, rounding);
      Widths uneven;
      for (int i = 0; i < size; ++i) uneven.push_back(3 + 7 * i);
      reduce_scatter_once(device, communicator, 5, uneven, dtype, 2, 0, rounding);
      send_receive_once(device, communicator, (rank + 1) % size, (rank + size - 1) % size, 2049, dtype, 4);
    }
    communicator.expect_healthy();
  });
}

// NCCL moves the bits of the parts, which are added as a tree: as many as are gathered at once, and more.
HEDDLE_TEST(collectives_over_nccl_of_a_reproducible_group_add_in_the_order_of_a_tree) {
  on_nccl_ranks(true, [](const Device& device, DeviceCommunicator& communicator) {
    const int size = communicator.size();
    for (const DType dtype : kTypes) {
      for (const int64_t count : {1, 1001, 70000}) {
        const DeviceMatrix x(device, Matrix(1, count, values_of(communicator.rank(), count, dtype, 3)), dtype);
        communicator.all_reduce(x.view());
        check_equal(x.read(), as_held(sum_of(size, count, dtype, 3), dtype), "all_reduce over NCCL");
      }
    }
    const int64_t many = (int64_t{64} << 20) / 4 / size + 77;  // in two turns
    const DeviceMatrix x(device, Matrix(1, many, values_of(communicator.rank(), many, DType::float32, 4)));
    communicator.all_reduce(x.view());
    check_equal(x.read(), sum_of(size, many, DType::float32, 4), "all_reduce of much over NCCL");
    communicator.expect_healthy();
  });
}

}  // namespace
}  // namespace heddle::test
