// Times attention, the row operations and sampling of the CPU backend alone, in the shapes of a layer with 16 query
// heads, 8 KV heads and head dimension 128. Prints one line a case: the fast end of many calls.
//   heddle_attention_bench [heads KV-heads head-dim]
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <numeric>

#include "comm/local/local.h"
#include "cpu/cpu_backend.h"
#include "tensors.h"
#include "test.h"

namespace heddle::test {
namespace {

struct Shape {
  int64_t heads = 16;
  int64_t kv_heads = 8;
  int64_t head_dim = 128;
};

// The fast end of many calls, where no other process took the core away.
double typical_seconds(int calls, const std::function<void()>& body) {
  std::vector<double> seconds;
  for (int i = 0; i < calls; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    body();
    seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  }
  std::sort(seconds.begin(), seconds.end());
  return seconds[seconds.size() / 10];
}

// `tokens` new tokens after `context - tokens` old ones, of one sequence.
void bench_attention(const Shape& shape, int32_t tokens, int32_t context, DType dtype) {
  const auto backend = cpu::create_backend(DType::float32);
  AttentionSpec spec;
  spec.head_count = shape.heads;
  spec.kv_head_count = shape.kv_heads;
  spec.head_dim = shape.head_dim;
  for (int64_t h = 0; h < shape.heads; ++h)
    spec.kv_head_of_query.push_back(static_cast<int32_t>(h * shape.kv_heads / shape.heads));
  spec.scale = 0.09f;
  spec.block_size = 16;
  spec.block_count = (context + 15) / 16;
  spec.rope_dim = shape.head_dim;
  spec.norm_eps = 1e-6f;
  const int64_t elements = 2 * spec.block_count * spec.kv_head_count * spec.block_size * spec.head_dim;
  // Several caches in turn, as the layers of a model have: none stays in the processor's cache.
  const auto cache_bytes = static_cast<size_t>(elements) * size_of(dtype);
  const size_t layers = std::clamp<size_t>((size_t{256} << 20) / cache_bytes, 1, 28);
  std::vector<Tensor> caches;
  for (size_t i = 0; i < layers; ++i) {
    caches.push_back({dtype,
                      {2, spec.block_count, spec.kv_head_count, spec.block_size, spec.head_dim},
                      TensorRole::cache,
                      backend->allocate(cache_bytes)});
    std::memset(caches.back().buffer.data(), 0x3c, cache_bytes);
  }
  Random random(1);
  const Tensor frequencies =
      tensor_of(random.uniform_vector(static_cast<size_t>(shape.head_dim / 2)), {shape.head_dim / 2});
  const Tensor norm = tensor_of(random.uniform_vector(static_cast<size_t>(shape.head_dim)), {shape.head_dim});
  const int64_t width = (shape.heads + 2 * shape.kv_heads) * shape.head_dim;
  Matrix qkv(tokens, width, random.uniform_vector(static_cast<size_t>(tokens * width)));
  Matrix y(tokens, shape.heads * shape.head_dim);
  Step step = step_of({tokens}, context - tokens);
  step.block_table.resize(static_cast<size_t>(spec.block_count));
  std::iota(step.block_table.rbegin(), step.block_table.rend(), 0);
  const StepView view = backend->begin_step(step);
  const auto layer = [&](Tensor& cache) {
    backend->attention(view, qkv.view(), {&cache, &frequencies, &norm, &norm}, spec, y.view());
  };
  layer(caches[0]);
  size_t next = 0;
  const double seconds = typical_seconds(tokens > 100 ? 20 : 100, [&] { layer(caches[next++ % layers]); });
  const double pairs = static_cast<double>(tokens) * (2.0 * context - tokens + 1) / 2;
  std::printf("attention %4d of %5d tokens, %-8s cache: %9.1f us  %6.1f GFLOP/s  %5.1f GB/s\n", tokens, context,
              name_of(dtype), seconds * 1e6,
              pairs * 4 * static_cast<double>(shape.heads * shape.head_dim) / seconds * 1e-9,
              static_cast<double>(cache_bytes) / seconds * 1e-9);
}

void bench_rows() {
  const auto backend = cpu::create_backend(DType::float32);
  Random random(2);
  constexpr int64_t kRows = 512;
  Matrix wide(kRows, 6144, random.uniform_vector(kRows * 6144, -5, 5)), half(kRows, 3072),
      x(kRows, 1024, random.uniform_vector(kRows * 1024)), y(kRows, 1024);
  const Tensor weight = tensor_of(random.uniform_vector(1024), {1024});
  const auto report = [](const char* what, double seconds, int64_t elements) {
    std::printf("%-18s of 512 rows: %9.1f us  %5.2f ns an element\n", what, seconds * 1e6,
                seconds * 1e9 / static_cast<double>(elements));
  };
  report("gated silu", typical_seconds(20, [&] { backend->gated(wide.view(), Activation::silu, half.view()); }),
         kRows * 3072);
  report("gated gelu", typical_seconds(20, [&] { backend->gated(wide.view(), Activation::gelu, half.view()); }),
         kRows * 3072);
  report("rms_norm", typical_seconds(20, [&] { backend->rms_norm(x.view(), weight, 1e-6f, y.view()); }), kRows * 1024);
  report("add", typical_seconds(20, [&] { backend->add(x.view(), y.view(), y.view()); }), kRows * 1024);
}

void bench_sample() {
  const auto backend = cpu::create_backend(DType::float32);
  const auto communicators = comm::create_local(1);
  Random random(3);
  Matrix logits(1, 151936);
  for (float& logit : logits.values) logit = random.uniform(-3, 3) + random.uniform(-3, 3) + random.uniform(-3, 3);
  const std::vector<std::pair<const char*, SamplingParams>> kinds = {
      {"greedy", {}},
      {"temperature", {.temperature = 0.8f}},
      {"min-p", {.temperature = 0.8f, .min_p = 0.05f}},
      {"top-k 20", {.temperature = 0.8f, .top_k = 20, .top_p = 0.9f}},
      {"top-p", {.temperature = 0.8f, .top_p = 0.9f}}};
  for (const auto& [name, params] : kinds) {
    Step step = step_of({1});
    step.sampling = {params};
    int32_t token = 0;
    const StepView view = backend->begin_step(step);
    const double seconds =
        typical_seconds(50, [&] { backend->sample(view, logits.view(), {0, 151936}, *communicators[0], &token); });
    std::printf("sample %-12s of 151936 logits: %7.1f us\n", name, seconds * 1e6);
  }
}

}  // namespace
}  // namespace heddle::test

int main(int count, char** arguments) {
  using namespace heddle::test;
  Shape shape;
  if (count == 4) shape = {std::atoll(arguments[1]), std::atoll(arguments[2]), std::atoll(arguments[3])};
  for (const heddle::DType dtype : {heddle::DType::float32, heddle::DType::bfloat16}) {
    for (const auto& [tokens, context] :
         {std::pair{1, 160}, {1, 4096}, {4, 4096}, {5, 4096}, {16, 4096}, {128, 128}, {512, 512}, {512, 4096}}) {
      bench_attention(shape, tokens, context, dtype);
    }
  }
  bench_rows();
  bench_sample();
  return 0;
}
