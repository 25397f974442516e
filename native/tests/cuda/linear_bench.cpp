// Times the linear layers of an 8B model (hidden 4096, 32 query and 8 KV heads, MLP 12288) and of its shards over 2, 4 and 8 GPUs, on
// one GPU: each product alone and the four of a layer as they depend on each other, norms, gate and residuals included. Weights are
// cold: distinct ones, of each product more than four times L2, in one graph. Beside them cuBLASLt's bare products, and the read bandwidth of this run.
//   heddle_cuda_linear_bench [json]          HEDDLE_CUBLASLT_LIB names the library where the loader does not find it
#include <cstdio>
#include <cstring>
#include <memory>

#include "cuda/dynlib.h"
#include "cuda/linear.h"
#include "cuda/linear_lt.h"
#include "on_device.h"
#include "read_bandwidth.h"
#include "timing.h"

namespace heddle::test {

// The registry of test.h is not part of this program.
void record_failure(const std::string& message) { std::fprintf(stderr, "%s\n", message.c_str()); }

namespace {

constexpr int64_t kHidden = 4096, kQkv = 6144, kIntermediate = 12288;
constexpr DType kType = DType::bfloat16;
constexpr int kReplays = 15;

// The products of one rank's layer, in order.
struct Layer {
  Tensor qkv, o, gate_up, down;

  std::vector<const Tensor*> all() const { return {&qkv, &o, &gate_up, &down}; }
  size_t bytes() const { return qkv.buffer.bytes() + o.buffer.bytes() + gate_up.buffer.bytes() + down.buffer.bytes(); }
};
constexpr const char* kNames[] = {"qkv", "o", "gate_up", "down"};

// Random values: a GPU that multiplies zeros draws less power and runs faster. Small, so that sums stay finite from layer to layer.
void fill(const cuda::Device& device, void* data, size_t bytes) {
  static const std::vector<uint8_t> part = encoded(Random(1).uniform_vector(size_t{8} << 20, -0.02f, 0.02f), kType);
  for (size_t done = 0; done < bytes; done += part.size())
    to_device(device, static_cast<uint8_t*>(data) + done, part.data(), std::min(part.size(), bytes - done));
}

Tensor weight(const cuda::Device& device, int64_t out, int64_t in) {
  Tensor tensor{kType, {out, in}, TensorRole::weight, cuda::device_memory(static_cast<size_t>(out * in) * size_of(kType), "bench weight")};
  fill(device, tensor.buffer.data(), tensor.buffer.bytes());
  return tensor;
}

std::vector<Layer> cold_layers(const cuda::Device& device, int64_t size) {
  std::vector<Layer> layers;
  for (size_t smallest = 0; smallest < 4 * device.l2_bytes() + 1; smallest += layers.back().o.buffer.bytes()) {
    layers.push_back({weight(device, kQkv / size, kHidden), weight(device, kHidden, kHidden / size), weight(device, 2 * kIntermediate / size, kHidden),
                      weight(device, kHidden, kIntermediate / size)});
  }
  return layers;
}

// Where the products read and write, as in a decoder: a float32 residual stream, 16-bit values between.
struct Activations {
  Buffer stream, wide, narrow, attended;
  Tensor norm;
  int64_t rows, size;

  Activations(const cuda::Device& device, int64_t row_count, int64_t group_size)
      : stream(memory(device, row_count * kHidden * 4)), wide(memory(device, row_count * 2 * kIntermediate * 4)), narrow(memory(device, row_count * kIntermediate * 2)),
        attended(memory(device, row_count * kQkv * 2)), norm(tensor_on(device, std::vector<float>(kHidden, 1.0f), {kHidden})), rows(row_count),
        size(group_size) {}

  static Buffer memory(const cuda::Device& device, int64_t bytes) {
    Buffer buffer = cuda::device_memory(static_cast<size_t>(bytes), "bench activations");
    cuda::check(cudaMemsetAsync(buffer.data(), 0, buffer.bytes(), device.stream()), "bench");
    fill(device, buffer.data(), buffer.bytes());
    return buffer;
  }
  View residual() const { return {stream.data(), DType::float32, rows, kHidden}; }

  // Product `which` of the layer with what a decoder folds in. Attention is left out: o reads what qkv has just written.
  cuda::LinearCall folded(const Layer& layer, size_t which) const {
    cuda::LinearCall call;
    call.weight = layer.all()[which];
    const bool first_half = which % 2 == 0;           // qkv, gate_up: norm before; o, down: residual after
    call.x = residual();
    if (first_half) call.norm_weight = &norm;
    call.norm_eps = 1e-6f;
    if (which == 0) call.y = {attended.data(), kType, rows, kQkv / size};
    if (which == 1) call.x = {attended.data(), kType, rows, kHidden / size};
    if (which == 2) call.y = {narrow.data(), kType, rows, kIntermediate / size};
    if (which == 2) call.gated = Activation::silu;
    if (which == 3) call.x = {narrow.data(), kType, rows, kIntermediate / size};
    if (!first_half) call.y = call.residual = residual();
    return call;
  }

  // The same product of a 16-bit x alone.
  cuda::LinearCall bare(const Layer& layer, size_t which) const {
    cuda::LinearCall call;
    call.weight = layer.all()[which];
    call.x = {narrow.data(), kType, rows, call.weight->width()};
    call.y = {wide.data(), kType, rows, call.weight->rows()};
    return call;
  }
};

// Seconds of one call: all of them are one graph, whose first replays warm up what is not memory.
double seconds_of_each(const cuda::Device& device, const std::vector<std::function<void()>>& calls) {
  const auto all = [&] {
    for (const auto& call : calls) call();
  };
  all();
  wait_for(device);
  return median_seconds(device, kReplays, all) / static_cast<double>(calls.size());
}

struct Line {
  int64_t size, rows;
  std::string what;
  double bytes;
  double own, library;                                // seconds; 0: not measured
};

void print(const Line& line, double bandwidth, bool json) {
  const double rate = line.bytes / line.own;
  if (json) {
    std::printf("{\"bench\":\"cuda_linear\",\"tp\":%ld,\"rows\":%ld,\"what\":\"%s\",\"bytes\":%.0f,\"us\":%.3f,\"cublaslt_us\":%.3f,\"read_bandwidth\":%.4e}\n",
                static_cast<long>(line.size), static_cast<long>(line.rows), line.what.c_str(), line.bytes, line.own * 1e6, line.library * 1e6, bandwidth);
    return;
  }
  std::printf("tp%ld M=%-3ld %-8s %8.2f us  %5.2f TB/s  %5.1f %% of read bandwidth", static_cast<long>(line.size), static_cast<long>(line.rows),
              line.what.c_str(), line.own * 1e6, rate * 1e-12, 100 * rate / bandwidth);
  if (line.library > 0) std::printf("   cuBLASLt %8.2f us, %4.2f x ours", line.library * 1e6, line.library / line.own);
  std::printf("\n");
}

// `which` of every layer, or with 4 all products of every layer.
std::vector<std::function<void()>> calls_of(const std::vector<Layer>& layers, size_t which, const std::function<void(const Layer&, size_t)>& run) {
  std::vector<std::function<void()>> calls;
  for (const Layer& layer : layers) {
    for (size_t i = 0; i < 4; ++i) {
      if (which == 4 || which == i) calls.push_back([&layer, i, run] { run(layer, i); });
    }
  }
  return calls;
}

void bench(cuda::Device& device, cuda::MatmulLibrary* library, double bandwidth, int64_t size, int64_t rows, const std::vector<Layer>& layers, bool json) {
  const Activations activations(device, rows, size);
  const bool small = rows <= cuda::kSmallRows;
  const auto own = [&](const Layer& layer, size_t i) {
    cuda::linear(device, small ? activations.folded(layer, i) : activations.bare(layer, i));
  };
  const auto theirs = [&](const Layer& layer, size_t i) {
    if (!library->run(activations.bare(layer, i))) throw Error(ErrorCode::unavailable, "bench: expected cuBLASLt to take a product");
  };
  for (size_t which = 0; which <= 4; ++which) {
    const double products = which == 4 ? 4 : 1;
    Line line = {size, rows, which == 4 ? "layer" : kNames[which], 0, 0, 0};
    line.bytes = static_cast<double>(which == 4 ? layers[0].bytes() : layers[0].all()[which]->buffer.bytes());
    line.own = products * seconds_of_each(device, calls_of(layers, which, own));
    if (library) line.library = products * seconds_of_each(device, calls_of(layers, which, theirs));
    print(line, bandwidth, json);
  }
}

void run(bool json) {
  cuda::Device device(0);
  std::string text;
  int driver = 0;
  cuda::check(cudaDriverGetVersion(&driver), "bench");
  const std::unique_ptr<cuda::LtTable> table = cuda::load_cublaslt({}, driver / 1000, text);
  std::unique_ptr<cuda::MatmulLibrary> library;
  if (table) library = std::make_unique<cuda::MatmulLibrary>(*table, device);
  device.matmul = library.get();
  const double bandwidth = read_bandwidth(device);
  if (!json) {
    std::printf("%s, read bandwidth %.2f TB/s, %s; times of a product are those with norm, gate or residual up to M=%ld, and bare above\n",
                device.name().c_str(), bandwidth * 1e-12, table ? ("cuBLASLt " + cuda::lt_version_text(table->version)).c_str() : text.c_str(),
                static_cast<long>(cuda::kSmallRows));
  }
  for (const int64_t size : {1, 2, 4, 8}) {
    const std::vector<Layer> layers = cold_layers(device, size);
    for (const int64_t rows : {1, 2, 4, 8, 16, 32}) bench(device, library.get(), bandwidth, size, rows, layers, json);
  }
}

}  // namespace
}  // namespace heddle::test

int main(int count, char** arguments) {
  try {
    heddle::test::run(count > 1 && std::strcmp(arguments[1], "json") == 0);
    return 0;
  } catch (const heddle::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
