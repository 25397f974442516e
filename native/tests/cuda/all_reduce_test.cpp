// Collectives among ranks that share a GPU, against sums in the order of a tree, plain and folded, eager and in a captured graph.
#include <cmath>
#include <cstring>
#include <mutex>

#include "collective_reference.h"
#include "rank_threads.h"

namespace heddle::test {
namespace {

using cuda::AllReduceEpilogue;
using cuda::Device;
using cuda::DeviceCommunicator;

struct Shape {
  int64_t rows;
  int64_t width;
};

void check_all_reduce(int size, Shape shape, DType dtype, int64_t offset) {
  const std::string what = "all_reduce of " + std::to_string(shape.rows) + " x " + std::to_string(shape.width) + " " + name_of(dtype) +
                           " at size " + std::to_string(size);
  const int64_t count = shape.rows * shape.width;
  on_ranks(size, [&](const Device& device, DeviceCommunicator& communicator) {
    for (uint64_t round = 0; round < 3; ++round) {
      const DeviceMatrix x(device, Matrix(shape.rows, shape.width, values_of(communicator.rank(), count, dtype, round)), dtype, offset);
      communicator.all_reduce(x.view());
      check_equal(x.read(what), as_held(sum_of(size, count, dtype, round), dtype), what);
    }
    communicator.expect_healthy();
  });
}

HEDDLE_TEST(all_reduce_sums_in_the_order_of_a_tree) {
  for (const int size : {1, 2, 3, 4, 5, 6, 7, 8, 9}) {
    for (const Shape shape : {Shape{1, 1}, {1, 7}, {1, 4096}, {3, 1001}}) {
      for (const DType dtype : {DType::float32, DType::bfloat16, DType::float16}) check_all_reduce(size, shape, dtype, 0);
    }
  }
}

HEDDLE_TEST(all_reduce_of_large_messages) {
  for (const int size : {2, 3, 4, 5, 6, 7, 8}) {
    check_all_reduce(size, {33, 4099}, DType::float32, 0);
    check_all_reduce(size, {40, 8192}, DType::bfloat16, 0);
  }
}

HEDDLE_TEST(all_reduce_of_unaligned_memory) {
  for (const int64_t offset : {1, 3}) {
    check_all_reduce(2, {1, 515}, DType::bfloat16, offset);
    check_all_reduce(4, {70, 4001}, DType::float16, offset);
  }
}

HEDDLE_TEST(all_reduce_on_several_gpus) {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess || count < 2) return;  // the emulator has as many as it is told
  DeviceCommunicators communicators = local_communicators(4);
  on_ranks(communicators, {0, 1, 0, 1}, [&](const Device& device, DeviceCommunicator& communicator) {
    const DeviceMatrix x(device, Matrix(5, 300, values_of(communicator.rank(), 1500, DType::float32, 1)));
    communicator.all_reduce(x.view());
    check_equal(x.read(), sum_of(4, 1500, DType::float32, 1), "four ranks on two GPUs");
  });
}

struct Fold {
  bool residual;
  bool norm;
  DType x;
  DType residual_dtype;
  DType normed;
};

// What an epilogue leaves, in double precision.
struct Folded {
  std::vector<double> sum;
  std::vector<double> normed;
};

Folded fold(const Fold& call, int size, Shape shape, const std::vector<float>& residual, const std::vector<float>& weight, uint64_t seed) {
  const std::vector<float> sum = sum_of(size, shape.rows * shape.width, call.x, seed);
  Folded folded;
  for (int64_t row = 0; row < shape.rows; ++row) {
    double squares = 0;
    for (int64_t i = 0; i < shape.width; ++i) {
      const auto at = static_cast<size_t>(row * shape.width + i);
      folded.sum.push_back(sum[at] + (call.residual ? residual[at] : 0.0f));
      squares += folded.sum.back() * folded.sum.back();
    }
    const double factor = 1 / std::sqrt(squares / static_cast<double>(shape.width) + 1e-6);
    for (int64_t i = 0; i < shape.width; ++i) {
      folded.normed.push_back(folded.sum[static_cast<size_t>(row * shape.width + i)] * factor * weight[static_cast<size_t>(i)]);
    }
  }
  return folded;
}

void check_near(const std::vector<float>& actual, const std::vector<double>& expected, double relative, const std::string& what) {
  for (size_t i = 0; i < expected.size(); ++i) {
    if (!check_close(actual[i], expected[i], relative * (std::abs(expected[i]) + 0.05), what, ": element ", i)) return;
  }
}

void check_fold(const Fold& call, int size, Shape shape) {
  const std::string what = std::string("all_reduce") + (call.residual ? " + residual" : "") + (call.norm ? " + norm" : "") + " of " +
                           name_of(call.x) + " at size " + std::to_string(size);
  const int64_t count = shape.rows * shape.width;
  Random random(7);
  const std::vector<float> residual = as_held(random.uniform_vector(static_cast<size_t>(count)), call.residual_dtype);
  const std::vector<float> weight = random.uniform_vector(static_cast<size_t>(shape.width), 0.5f, 1.5f);
  on_ranks(size, [&](const Device& device, DeviceCommunicator& communicator) {
    const Tensor norm = tensor_on(device, weight, {shape.width});
    for (uint64_t round = 0; round < 3; ++round) {
      const DeviceMatrix x(device, Matrix(shape.rows, shape.width, values_of(communicator.rank(), count, call.x, round)), call.x);
      const DeviceMatrix stream(device, Matrix(shape.rows, shape.width, residual), call.residual_dtype);
      const DeviceMatrix normed(device, shape.rows, shape.width, call.normed);
      AllReduceEpilogue epilogue;
      if (call.residual) epilogue.residual = stream.view();
      epilogue.y = call.residual ? stream.view() : x.view();  // in place
      if (call.norm) {
        epilogue.norm_weight = &norm;
        epilogue.norm_eps = 1e-6f;
        epilogue.normed = normed.view();
      }
      if (!check(communicator.fuses(x.view(), epilogue), what, ": expected to be one kernel")) return;
      communicator.all_reduce_fused(x.view(), epilogue);
      const Folded expected = fold(call, size, shape, residual, weight, round);
      const double rounding = rounding_of(call.residual ? call.residual_dtype : call.x);
      const std::vector<float> sum = (call.residual ? stream : x).read(what);
      check_near(sum, expected.sum, rounding + 1e-6, what);
      // the residual comes after the whole tree: one more rounding to float32, no other bits
      if (call.residual && call.residual_dtype == DType::float32) check_equal(sum, {expected.sum.begin(), expected.sum.end()}, what);
      if (call.norm) check_near(normed.read(what), expected.normed, rounding_of(call.normed) + rounding + 1e-5, what);
    }
  });
}

HEDDLE_TEST(all_reduce_folds_residual_and_norm) {
  const DType f = DType::float32;
  const DType b = DType::bfloat16;
  for (const int size : {1, 2, 3, 4, 7, 8}) {
    for (const Shape shape : {Shape{1, 512}, {5, 1027}}) {
      check_fold({true, true, b, f, b}, size, shape);
      check_fold({true, true, f, f, f}, size, shape);
      check_fold({true, false, b, f, b}, size, shape);
      check_fold({false, true, f, f, f}, size, shape);
      check_fold({true, true, DType::float16, f, DType::float16}, size, shape);
    }
  }
}

HEDDLE_TEST(all_reduce_folds_the_same_bits_on_every_rank) {
  constexpr int kSize = 4;
  std::vector<std::vector<float>> results(kSize);
  on_ranks(kSize, [&](const Device& device, DeviceCommunicator& communicator) {
    const DeviceMatrix x(device, Matrix(2, 640, values_of(communicator.rank(), 1280, DType::bfloat16, 3)), DType::bfloat16);
    const DeviceMatrix stream(device, Matrix(2, 640, values_of(9, 1280, DType::float32, 3)));
    const DeviceMatrix normed(device, 2, 640);
    const Tensor norm = tensor_on(device, values_of(10, 640, DType::float32, 3), {640});
    communicator.all_reduce_fused(x.view(), {stream.view(), stream.view(), &norm, 1e-6f, normed.view()});
    results[static_cast<size_t>(communicator.rank())] = normed.read();
  });
  for (int rank = 1; rank < kSize; ++rank) check_equal(results[static_cast<size_t>(rank)], results[0], "rank " + std::to_string(rank));
}

HEDDLE_TEST(all_reduce_does_not_fuse_what_is_too_large) {
  on_ranks(2, [](const Device& device, DeviceCommunicator& communicator) {
    const Tensor norm = tensor_on(device, {1.0f}, {1});
    const View wide{nullptr, DType::float32, 1, 1 << 20};
    const View many{nullptr, DType::float32, 1 << 12, 1024};
    AllReduceEpilogue epilogue;
    epilogue.norm_weight = &norm;
    check(!communicator.fuses(wide, epilogue) && !communicator.fuses(many, epilogue), "expected to be refused");
  });
}

HEDDLE_TEST(all_gather_puts_uneven_columns_side_by_side) {
  const std::vector<int64_t> widths = {5, 1, 8, 3};
  for (const DType dtype : {DType::float32, DType::bfloat16}) {
    on_ranks(4, [&](const Device& device, DeviceCommunicator& communicator) {
      const int64_t rows = 9;
      const int64_t mine = widths[static_cast<size_t>(communicator.rank())];
      const DeviceMatrix x(device, Matrix(rows, mine, values_of(communicator.rank(), rows * mine, dtype, 5)), dtype);
      const DeviceMatrix y(device, rows, 17, dtype);
      communicator.all_gather(x.view(), widths, y.view());
      const std::vector<float> all = y.read();
      int64_t column = 0;
      for (int rank = 0; rank < 4; ++rank) {
        const int64_t width = widths[static_cast<size_t>(rank)];
        const std::vector<float> part = values_of(rank, rows * width, dtype, 5);
        for (int64_t row = 0; row < rows; ++row) {
          for (int64_t i = 0; i < width; ++i) {
            check(all[static_cast<size_t>(row * 17 + column + i)] == part[static_cast<size_t>(row * width + i)], "row ", row, " of rank ", rank);
          }
        }
        column += width;
      }
    });
  }
}

HEDDLE_TEST(gather_moves_any_number_of_bytes) {
  for (const size_t bytes : {size_t{1}, size_t{13}, size_t{4096}, size_t{700001}}) {
    on_ranks(3, [&](const Device& device, DeviceCommunicator& communicator) {
      std::vector<uint8_t> mine(bytes);
      for (size_t i = 0; i < bytes; ++i) mine[i] = static_cast<uint8_t>(i * 31 + static_cast<size_t>(communicator.rank()) * 7);
      const Buffer from = cuda::device_memory(bytes, "test");
      const Buffer all = cuda::device_memory(3 * bytes, "test");
      to_device(device, from.data(), mine.data(), bytes);
      communicator.gather(from.data(), bytes, all.data());
      std::vector<uint8_t> got(3 * bytes);
      to_host(device, got.data(), all.data(), got.size());
      for (size_t i = 0; i < got.size(); ++i) {
        const auto expected = static_cast<uint8_t>(i % bytes * 31 + i / bytes * 7);
        if (!check(got[i] == expected, bytes, " bytes: byte ", i, ": expected ", int{expected}, ", got ", int{got[i]})) return;
      }
    });
  }
}

// Collectives of different kinds and sizes one after another: what one leaves in the staging memory must not look like another's.
HEDDLE_TEST(collectives_in_any_order) {
  constexpr int kSize = 3;
  on_ranks(kSize, [](const Device& device, DeviceCommunicator& communicator) {
    Random random(11);                                // the same on every rank
    for (uint64_t round = 0; round < 60; ++round) {
      const int64_t count = round % 7 == 0 ? 70000 + random.below(5000) : 1 + random.below(3000);
      const DeviceMatrix x(device, Matrix(1, count, values_of(communicator.rank(), count, DType::float32, round)));
      if (random.below(3) == 0) {
        const DeviceMatrix y(device, 1, kSize * count);
        communicator.all_gather(x.view(), std::vector<int64_t>(kSize, count), y.view());
        const std::vector<float> all = y.read();
        for (int rank = 0; rank < kSize; ++rank) {
          const auto begin = all.begin() + rank * count;
          check_equal({begin, begin + count}, values_of(rank, count, DType::float32, round), "round " + std::to_string(round));
        }
      } else {
        communicator.all_reduce(x.view());
        check_equal(x.read(), sum_of(kSize, count, DType::float32, round), "round " + std::to_string(round));
      }
    }
  });
}

HEDDLE_TEST(all_reduce_in_a_graph) {
  constexpr int kSize = 4;
  constexpr int64_t kCount = 2048;
  on_ranks(kSize, [](const Device& device, DeviceCommunicator& communicator) {
    DeviceMatrix small(device, 1, kCount, DType::bfloat16);
    DeviceMatrix large(device, 40, kCount);
    const CapturedGraph graph(device, communicator, [&] {
      communicator.all_reduce(small.view());
      communicator.all_reduce(large.view());
      communicator.all_reduce(small.view());
    });
    for (uint64_t round = 0; round < 5; ++round) {
      small.write(values_of(communicator.rank(), kCount, DType::bfloat16, round));
      large.write(values_of(communicator.rank(), 40 * kCount, DType::float32, round));
      graph.launch();
      std::vector<float> twice = as_held(sum_of(kSize, kCount, DType::bfloat16, round), DType::bfloat16);
      for (float& value : twice) value = value + value + value + value;
      check_equal(small.read(), as_held(twice, DType::bfloat16), "replay " + std::to_string(round));
      check_equal(large.read(), sum_of(kSize, 40 * kCount, DType::float32, round), "replay " + std::to_string(round));
    }
  });
}

}  // namespace
}  // namespace heddle::test
