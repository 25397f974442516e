// cuDNN's fused attention as an engine of PromptLibrary, described through the header-only cudnn-frontend (MIT).
// Rule: libcudnn is not linked. The frontend calls the functions below that bear cuDNN's names; they are this library's own, hidden, and
// hand on to the libcudnn that was found at run time.
#include <cudnn_frontend.h>
#include <dlfcn.h>

#include <cstdlib>
#include <cstring>
#include <mutex>
#include <unordered_map>

#include "core/error.h"
#include "cuda/attention_library.h"
#include "cuda/discovery.h"
#include "cuda/dynlib.h"

#define HEDDLE_CUDNN_FUNCTIONS(X) \
  X(cudnnGetVersion) X(cudnnGetErrorString) X(cudnnGetLastErrorString) X(cudnnCreate) X(cudnnDestroy) X(cudnnSetStream) X(cudnnGetStream) \
  X(cudnnBackendCreateDescriptor) X(cudnnBackendDestroyDescriptor) X(cudnnBackendFinalize) X(cudnnBackendSetAttribute) \
  X(cudnnBackendGetAttribute) X(cudnnBackendExecute)

namespace heddle::cuda {

namespace {

struct Functions {
#define X(name) decltype(&::name) name = nullptr;
  HEDDLE_CUDNN_FUNCTIONS(X)
#undef X
};

struct Cudnn {
  Functions call;
  std::string path;                                   // empty: `problem` says why there is none
  std::string problem;
  std::mutex mutex;
  std::string unused;                                 // why prompts stay with the own kernel; the first reason
};

bool switched_off() {
  const char* value = std::getenv("HEDDLE_CUDNN");
  return value && std::strcmp(value, "0") == 0;
}

// The part of cuDNN that has what we need. Not libcudnn.so.9, which passes each call on to the part that it is in and ends the process
// where that part is missing.
constexpr const char* kPart = "libcudnn_graph.so.9";

void load(Cudnn& cudnn) {
  const char* named = std::getenv("HEDDLE_CUDNN_LIB");
  if (named && std::strstr(named, "libcudnn.so")) {
    cudnn.problem = std::string("HEDDLE_CUDNN_LIB: expected a ") + kPart + ", got " + named;
    return;
  }
  const Library library = open_library({kPart}, "HEDDLE_CUDNN_LIB", library_folders());
  cudnn.problem = library.text;
  if (!library.handle) return;
#define X(name)                                                                                             \
  cudnn.call.name = reinterpret_cast<decltype(cudnn.call.name)>(dlsym(library.handle, #name));              \
  if (!cudnn.call.name) {                                                                                   \
    cudnn.problem = "symbol " #name " is missing in " + library.path;                                       \
    return;                                                                                                 \
  }
  HEDDLE_CUDNN_FUNCTIONS(X)
#undef X
  cudnn.path = library.path;
}

// Never destroyed, as all that NVIDIA's libraries hand out.
Cudnn& cudnn() {
  static Cudnn& kept = *new Cudnn;
  static std::once_flag looked_for;
  std::call_once(looked_for, [] {
    if (switched_off()) {
      kept.problem = "switched off by HEDDLE_CUDNN=0";
    } else {
      load(kept);
    }
  });
  return kept;
}

std::string version_text() {
  const size_t version = cudnn().call.cudnnGetVersion();  // 92800 for 9.28.0
  return std::to_string(version / 10000) + "." + std::to_string(version / 100 % 100) + "." + std::to_string(version % 100);
}

void expect(cudnnStatus_t status, const char* what) {
  if (status == CUDNN_STATUS_SUCCESS) return;
  throw Error(ErrorCode::device_failed, std::string("cuDNN: ") + what + ": " + cudnn().call.cudnnGetErrorString(status));
}

void expect(cudnn_frontend::error_t status, const char* what) {
  if (status.is_good()) return;
  throw Error(ErrorCode::unavailable, std::string("cuDNN: ") + what + ": " + status.get_message());
}

namespace fe = cudnn_frontend;
using Attributes = fe::graph::Tensor_attributes;
using TensorPointer = std::shared_ptr<Attributes>;

enum : int64_t { kQueries = 1, kKeys, kValues, kY, kQueryCounts, kKeyCounts, kQueryStarts, kKeyStarts };

class CudnnPlan final : public PromptPlan {
 public:
  CudnnPlan(cudnnHandle_t handle, const PromptShape& shape) : handle_(handle) {
    const auto type = shape.dtype == DType::bfloat16 ? fe::DataType_t::BFLOAT16 : fe::DataType_t::HALF;
    graph_.set_io_data_type(type).set_intermediate_data_type(fe::DataType_t::FLOAT).set_compute_data_type(fe::DataType_t::FLOAT);
    describe(shape);
    expect(graph_.validate(), "validate");
    expect(graph_.build_operation_graph(handle), "build_operation_graph");
    expect(graph_.create_execution_plans({fe::HeurMode_t::A}), "create_execution_plans");
    expect(graph_.check_support(handle), "check_support");
    expect(graph_.build_plans(handle), "build_plans");
    int64_t bytes = 0;
    expect(graph_.get_workspace_size(bytes), "get_workspace_size");
    workspace_bytes_ = static_cast<size_t>(bytes);
  }

  size_t workspace_bytes() const override { return workspace_bytes_; }

  void run(const PromptTensors& tensors, void* workspace) override {
    const auto pointer = [](const void* data) { return const_cast<void*>(data); };
    std::unordered_map<int64_t, void*> pack = {
        {kQueries, pointer(tensors.queries)},           {kKeys, pointer(tensors.keys)},
        {kValues, pointer(tensors.values)},             {kY, tensors.y},
        {kQueryCounts, pointer(tensors.query_counts)},  {kKeyCounts, pointer(tensors.key_counts)},
        {kQueryStarts, pointer(tensors.query_starts)},  {kKeyStarts, pointer(tensors.key_starts)}};
    expect(graph_.execute(handle_, pack, workspace), "execute");
  }

 private:
  // [sequences, heads, rows, headDim], of which each sequence has its own number of rows and its own beginning: what the strides say
  // between sequences is not read.
  static Attributes& pack(Attributes& tensor, const char* name, int64_t uid, const PromptShape& shape, int64_t heads, int64_t rows,
                          const TensorPointer& starts) {
    const int64_t width = heads * shape.head_dim;
    return tensor.set_name(name).set_uid(uid).set_dim({shape.sequences, heads, rows, shape.head_dim})
        .set_stride({rows * width, shape.head_dim, width, 1}).set_ragged_offset(starts);
  }
  TensorPointer input(const char* name, int64_t uid, const PromptShape& shape, int64_t heads, int64_t rows, const TensorPointer& starts) {
    Attributes tensor;
    return graph_.tensor(pack(tensor, name, uid, shape, heads, rows, starts));
  }
  TensorPointer integers(const char* name, int64_t uid, int64_t count) {
    return graph_.tensor(Attributes().set_name(name).set_uid(uid).set_dim({count, 1, 1, 1}).set_stride({1, 1, 1, 1})
                             .set_data_type(fe::DataType_t::INT32));
  }

  void describe(const PromptShape& shape) {
    const TensorPointer query_starts = integers("query starts", kQueryStarts, shape.sequences + 1);
    const TensorPointer key_starts = integers("key starts", kKeyStarts, shape.sequences + 1);
    const TensorPointer queries = input("queries", kQueries, shape, shape.head_count, shape.queries, query_starts);
    const TensorPointer keys = input("keys", kKeys, shape, shape.kv_head_count, shape.keys, key_starts);
    const TensorPointer values = input("values", kValues, shape, shape.kv_head_count, shape.keys, key_starts);
    fe::graph::SDPA_attributes options;
    options.set_name("attention").set_generate_stats(false).set_attn_scale(shape.scale).set_padding_mask(true);
    options.set_seq_len_q(integers("query counts", kQueryCounts, shape.sequences));
    options.set_seq_len_kv(integers("key counts", kKeyCounts, shape.sequences));
    // The last query of a sequence stands at its last key.
    options.set_diagonal_alignment(fe::DiagonalAlignment_t::BOTTOM_RIGHT);
    if (shape.causal) options.set_diagonal_band_right_bound(0);
    if (shape.sliding_window > 0) options.set_diagonal_band_left_bound(static_cast<int>(shape.sliding_window));
    const auto [y, stats] = graph_.sdpa(queries, keys, values, options);
    pack(*y, "y", kY, shape, shape.head_count, shape.queries, query_starts).set_output(true);
  }

  cudnnHandle_t handle_;
  fe::graph::Graph graph_;
  size_t workspace_bytes_ = 0;
};

class CudnnEngine final : public PromptEngine {
 public:
  explicit CudnnEngine(cudaStream_t stream) {
    expect(cudnn().call.cudnnCreate(&handle_), "cudnnCreate");
    const cudnnStatus_t status = cudnn().call.cudnnSetStream(handle_, stream);
    if (status == CUDNN_STATUS_SUCCESS) return;
    (void)cudnn().call.cudnnDestroy(handle_);
    expect(status, "cudnnSetStream");
  }
  ~CudnnEngine() override { (void)cudnn().call.cudnnDestroy(handle_); }
  CudnnEngine(const CudnnEngine&) = delete;
  CudnnEngine& operator=(const CudnnEngine&) = delete;

  std::unique_ptr<PromptPlan> plan(const PromptShape& shape) override { return std::make_unique<CudnnPlan>(handle_, shape); }

 private:
  cudnnHandle_t handle_ = nullptr;
};

void report(const std::string& reason) {
  Cudnn& found = cudnn();
  const std::lock_guard lock(found.mutex);
  if (found.unused.empty()) found.unused = reason;
}

}  // namespace

LibraryInfo describe_cudnn() {
  Cudnn& found = cudnn();
  if (found.path.empty()) return {"cuDNN", "", "", found.problem};
  const std::lock_guard lock(found.mutex);
  return {"cuDNN", version_text(), found.path, found.unused};
}

std::unique_ptr<PromptLibrary> create_cudnn(const Device& device, const PromptLimits& limits) {
  if (cudnn().path.empty()) return nullptr;
  return std::make_unique<PromptLibrary>([stream = device.stream()] { return std::make_unique<CudnnEngine>(stream); }, report, limits);
}

}  // namespace heddle::cuda

// ---- what the frontend calls ----

size_t cudnnGetVersion() { return heddle::cuda::cudnn().call.cudnnGetVersion(); }
const char* cudnnGetErrorString(cudnnStatus_t status) { return heddle::cuda::cudnn().call.cudnnGetErrorString(status); }
void cudnnGetLastErrorString(char* message, size_t size) { heddle::cuda::cudnn().call.cudnnGetLastErrorString(message, size); }
cudnnStatus_t cudnnGetStream(cudnnHandle_t handle, cudaStream_t* stream) { return heddle::cuda::cudnn().call.cudnnGetStream(handle, stream); }
cudnnStatus_t cudnnBackendCreateDescriptor(cudnnBackendDescriptorType_t type, cudnnBackendDescriptor_t* made) {
  return heddle::cuda::cudnn().call.cudnnBackendCreateDescriptor(type, made);
}
cudnnStatus_t cudnnBackendDestroyDescriptor(cudnnBackendDescriptor_t descriptor) {
  return heddle::cuda::cudnn().call.cudnnBackendDestroyDescriptor(descriptor);
}
cudnnStatus_t cudnnBackendFinalize(cudnnBackendDescriptor_t descriptor) {
  return heddle::cuda::cudnn().call.cudnnBackendFinalize(descriptor);
}
cudnnStatus_t cudnnBackendSetAttribute(cudnnBackendDescriptor_t descriptor, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
                                       int64_t count, const void* elements) {
  return heddle::cuda::cudnn().call.cudnnBackendSetAttribute(descriptor, name, type, count, elements);
}
cudnnStatus_t cudnnBackendGetAttribute(cudnnBackendDescriptor_t const descriptor, cudnnBackendAttributeName_t name,
                                       cudnnBackendAttributeType_t type, int64_t wanted, int64_t* count, void* elements) {
  return heddle::cuda::cudnn().call.cudnnBackendGetAttribute(descriptor, name, type, wanted, count, elements);
}
cudnnStatus_t cudnnBackendExecute(cudnnHandle_t handle, cudnnBackendDescriptor_t plan, cudnnBackendDescriptor_t pack) {
  return heddle::cuda::cudnn().call.cudnnBackendExecute(handle, plan, pack);
}
