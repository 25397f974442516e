// Times attention on a GPU in the shapes of an 8B model (32 query and 8 KV heads of dimension 128) whole and as one of 8 ranks:
// decode against the read bandwidth measured in the same run, prompts in TFLOP/s. Prints one line a case.
//   heddle_cuda_attention_bench
#include <cstdio>
#include <cstring>
#include <numeric>

#include "cuda/attention.h"
#include "on_device.h"
#include "read_bandwidth.h"
#include "timing.h"

namespace heddle::test {

// The registry of test.h is not part of this program.
void record_failure(const std::string& message) { std::fprintf(stderr, "%s\n", message.c_str()); }

namespace {

constexpr int64_t kHeadDim = 128;
constexpr int64_t kBlockSize = 16;
constexpr DType kType = DType::bfloat16;

struct Heads {
  int64_t query;
  int64_t kv;
};

// Random values: a GPU that multiplies zeros draws less power and runs faster.
void fill(const cuda::Device& device, const Buffer& memory) {
  Random random(1);
  const std::vector<uint8_t> part = encoded(random.uniform_vector(size_t{8} << 20), kType);
  for (size_t done = 0; done < memory.bytes(); done += part.size()) {
    to_device(device, static_cast<uint8_t*>(memory.data()) + done, part.data(), std::min(part.size(), memory.bytes() - done));
  }
}

AttentionSpec spec_of(const Heads& heads, int64_t block_count) {
  AttentionSpec spec;
  spec.head_count = heads.query;
  spec.kv_head_count = heads.kv;
  spec.head_dim = kHeadDim;
  for (int64_t i = 0; i < heads.query; ++i) spec.kv_head_of_query.push_back(static_cast<int32_t>(i * heads.kv / heads.query));
  spec.scale = 0.088388f;
  spec.block_size = kBlockSize;
  spec.block_count = block_count;
  spec.rope_dim = kHeadDim;
  spec.norm_eps = 1e-6f;
  return spec;
}

// `tokens` new tokens of each of `sequences`, the last of them at context - 1; blocks lie anywhere.
Step step_at(int64_t sequences, int64_t tokens, int64_t context) {
  const std::vector<int32_t> counts(static_cast<size_t>(sequences), static_cast<int32_t>(tokens));
  Step step = step_of(counts, static_cast<int32_t>(context - tokens));
  const int64_t blocks = (context + kBlockSize - 1) / kBlockSize;
  step.block_table.resize(static_cast<size_t>(sequences * blocks));
  std::iota(step.block_table.begin(), step.block_table.end(), 0);
  Random random(2);
  for (size_t i = step.block_table.size(); i > 1; --i) {
    std::swap(step.block_table[i - 1], step.block_table[static_cast<size_t>(random.below(static_cast<int64_t>(i)))]);
  }
  return step;
}

// Seconds of one call, of as many layers in turn as are needed for none to stay in the L2 cache.
double seconds_of(const cuda::Device& device, const Heads& heads, int64_t sequences, int64_t tokens, int64_t context) {
  const Step host = step_at(sequences, tokens, context);
  const AttentionSpec spec = spec_of(heads, static_cast<int64_t>(host.block_table.size()));
  const std::vector<int64_t> shape = {2, spec.block_count, spec.kv_head_count, spec.block_size, spec.head_dim};
  const int64_t elements = 2 * spec.block_count * spec.kv_head_count * spec.block_size * spec.head_dim;
  const size_t cache_bytes = static_cast<size_t>(elements) * size_of(kType);
  const size_t layers = std::clamp<size_t>(4 * device.l2_bytes() / cache_bytes, 4, 64);
  std::vector<Tensor> caches;
  for (size_t i = 0; i < layers; ++i) {
    caches.push_back({kType, shape, TensorRole::cache, cuda::device_memory(cache_bytes, "cache")});
    fill(device, caches.back().buffer);
  }
  std::vector<float> frequencies;
  for (int64_t i = 0; i < kHeadDim / 2; ++i) frequencies.push_back(std::pow(1e6f, -2.0f * static_cast<float>(i) / kHeadDim));
  const Tensor inverse_frequencies = tensor_on(device, frequencies, {kHeadDim / 2});
  const Tensor norm = tensor_on(device, std::vector<float>(kHeadDim, 1.0f), {kHeadDim});
  const StepOnDevice step(device, host);
  Random random(3);
  const int64_t rows = host.token_count();
  const int64_t width = (heads.query + 2 * heads.kv) * kHeadDim;
  const DeviceMatrix qkv(device, Matrix(rows, width, random.uniform_vector(static_cast<size_t>(rows * width))), kType);
  const DeviceMatrix y(device, rows, heads.query * kHeadDim, kType);
  const auto attend = [&] {
    for (Tensor& cache : caches) {
      const AttentionTensors tensors = {&cache, &inverse_frequencies, &norm, &norm};
      cuda::attention(device,
                      {.step = step.step, .shape = step.shape, .qkv = qkv.view(), .tensors = tensors, .spec = &spec, .y = y.view()});
    }
  };
  attend();                                           // makes scratch memory
  wait_for(device);
  return median_seconds(device, 11, attend) / static_cast<double>(layers);
}

void bench_decode(const cuda::Device& device, double bandwidth, const Heads& heads, int64_t sequences, int64_t context) {
  const double seconds = seconds_of(device, heads, sequences, 1, context);
  const double rate = static_cast<double>(2 * sequences * context * heads.kv * kHeadDim) * static_cast<double>(size_of(kType)) / seconds;
  std::printf("decode  %3lld/%lld heads  batch %3lld  context %6lld  %9.2f us  %5.2f TB/s  %5.1f %% of read bandwidth\n",
              static_cast<long long>(heads.query), static_cast<long long>(heads.kv), static_cast<long long>(sequences),
              static_cast<long long>(context), seconds * 1e6, rate * 1e-12, 100 * rate / bandwidth);
}

void bench_prompt(const cuda::Device& device, const Heads& heads, int64_t tokens) {
  const double seconds = seconds_of(device, heads, 1, tokens, tokens);
  const double flops = 2.0 * static_cast<double>(heads.query * kHeadDim) * static_cast<double>(tokens) * static_cast<double>(tokens);
  std::printf("prompt  %3lld/%lld heads  tokens %6lld  %9.1f us  %6.1f TFLOP/s (causal)\n", static_cast<long long>(heads.query),
              static_cast<long long>(heads.kv), static_cast<long long>(tokens), seconds * 1e6, flops / seconds * 1e-12);
}

void bench() {
  const cuda::Device device(0);
  const double bandwidth = read_bandwidth(device);
  std::printf("%s, %d SMs, reads %.2f TB/s\n", device.name().c_str(), device.sm_count(), bandwidth * 1e-12);
  for (const Heads& heads : {Heads{32, 8}, Heads{4, 1}}) {
    for (const int64_t sequences : {1, 8, 32}) {
      for (const int64_t context : {256, 1024, 8192, 32768}) bench_decode(device, bandwidth, heads, sequences, context);
    }
    for (const int64_t tokens : {512, 2048, 8192}) bench_prompt(device, heads, tokens);
  }
}

}  // namespace
}  // namespace heddle::test

int main() {
  try {
    heddle::test::bench();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
