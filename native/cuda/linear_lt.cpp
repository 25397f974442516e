#include "cuda/linear_lt.h"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "core/error.h"
#include "cuda/linear_choices.h"

namespace heddle::cuda {

using namespace nvabi;

namespace {

constexpr size_t kWorkspaceBytes = size_t{32} << 20;  // what Hopper's algorithms want
constexpr int kCandidates = 12;
constexpr int kTimings = 3;                           // of each candidate, after one that warms up
constexpr int64_t kMaxBucket = 8192;                  // rows; beyond, the best algorithm no longer changes
constexpr uint32_t kAlignment = 16;                   // of every operand: what a tensor core's loads want, and all that is promised

int type_of(DType dtype) {
  switch (dtype) {
    case DType::float32: return CUDA_R_32F;
    case DType::bfloat16: return CUDA_R_16BF;
    case DType::float16: return CUDA_R_16F;
  }
  return CUDA_R_32F;
}

MatmulKey key_of(const LinearCall& call) {
  const auto rows = static_cast<uint64_t>(call.x.rows);
  return {std::min(kMaxBucket, static_cast<int64_t>(std::bit_ceil(rows))), call.weight->width(), call.weight->rows(), call.weight->dtype,
          call.y.dtype, call.bias != nullptr};
}

bool is_aligned(const void* data) { return reinterpret_cast<uintptr_t>(data) % kAlignment == 0; }

bool can_run(const LinearCall& call) {
  if (call.norm_weight || call.activation || call.gated || call.x.dtype != call.weight->dtype) return false;
  const bool single = call.y.dtype == DType::float32;
  if (!single && (call.y.dtype != call.x.dtype || call.bias || call.residual.data)) return false;
  if (call.residual.data && call.residual.dtype != DType::float32) return false;
  return is_aligned(call.x.data) && is_aligned(call.weight->buffer.data()) && is_aligned(call.y.data) && is_aligned(call.residual.data) &&
         (!call.bias || is_aligned(call.bias->buffer.data()));
}

bool tuning_wanted() {
  const char* value = std::getenv("HEDDLE_MATMUL_TUNING");
  return !value || std::string(value) != "0";
}

// Whoever finds the same text finds the same algorithms.
std::string identity_of(const LtTable& table, const Device& device) {
  int driver = 0;
  check(cudaDriverGetVersion(&driver), "linear");
  return device.name() + ", compute capability " + std::to_string(device.compute_capability()) + ", " + std::to_string(device.sm_count()) +
         " multiprocessors, driver " + std::to_string(driver) + ", cuBLASLt " + std::to_string(table.version) + ", workspace " +
         std::to_string(kWorkspaceBytes);
}

bool same(const LtAlgo& a, const LtAlgo& b) { return std::memcmp(&a, &b, sizeof(LtAlgo)) == 0; }

Event make_timing_event() {
  cudaEvent_t event = nullptr;
  check(cudaEventCreate(&event), "linear");
  return Event(event);
}

}  // namespace

class MatmulLibrary::Plans {
 public:
  Plans(const LtTable& table, const Device& device, const std::string& folder)
      : lt_(table), device_(device), tuning_(tuning_wanted()), choices_(tuning_ ? folder : "", identity_of(table, device)) {
    expect(lt_.cublasLtCreate(&handle_), "cublasLtCreate");
  }
  ~Plans() { (void)lt_.cublasLtDestroy(handle_); }
  Plans(const Plans&) = delete;
  Plans& operator=(const Plans&) = delete;

  bool run(const LinearCall& call) {
    if (!can_run(call)) return false;
    void* workspace = device_.scratch(Scratch::linear_library, kWorkspaceBytes);
    const MatmulKey key = key_of(call);
    if (const auto known = algorithms_.find(key); known != algorithms_.end()) {
      // Made for other rows of the bucket, it may refuse these.
      if (submit(call, known->second, workspace)) return true;
    }
    const std::vector<LtAlgo> algorithms = candidates(call);
    if (algorithms.empty()) return false;
    const bool fresh = algorithms_.find(key) == algorithms_.end();
    if (fresh && tuning_ && algorithms.size() > 1 && !device_.capturing()) {
      algorithms_[key] = chosen(key, call, algorithms, workspace);
      if (submit(call, algorithms_[key], workspace)) return true;
    }
    for (const LtAlgo& algorithm : algorithms) {
      if (!submit(call, algorithm, workspace)) continue;
      if (fresh && !device_.capturing()) algorithms_.try_emplace(key, algorithm);
      return true;
    }
    return false;
  }

 private:
  void expect(int status, const char* function) const {
    if (status == CUBLAS_STATUS_SUCCESS) return;
    const char* text = lt_.cublasLtGetStatusString ? lt_.cublasLtGetStatusString(status) : nullptr;
    throw Error(ErrorCode::device_failed, std::string("linear: ") + function + ": expected success, got " + (text ? text : "status") + " (" +
                                              std::to_string(status) + ", cuBLASLt " + lt_version_text(lt_.version) + ")");
  }

  template <class T>
  void set(LtDesc desc, int attribute, const T& value) const {
    expect(lt_.cublasLtMatmulDescSetAttribute(desc, attribute, &value, sizeof(T)), "cublasLtMatmulDescSetAttribute");
  }

  // One product as the library sees it, by columns: yᵀ [out, rows] = weight [out, in] · xᵀ [in, rows].
  class Problem {
   public:
    Problem(const Plans& plans, const LinearCall& call) : plans_(plans) {
      const auto in = static_cast<uint64_t>(call.weight->width()), out = static_cast<uint64_t>(call.weight->rows());
      const auto rows = static_cast<uint64_t>(call.x.rows);
      try {
        plans.expect(plans.lt_.cublasLtMatmulDescCreate(&desc, CUBLAS_COMPUTE_32F, CUDA_R_32F), "cublasLtMatmulDescCreate");
        plans.set<int32_t>(desc, CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);
        plans.set<int32_t>(desc, CUBLASLT_MATMUL_DESC_TRANSB, CUBLAS_OP_N);
        if (call.bias) {
          plans.set<int32_t>(desc, CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
          plans.set<int32_t>(desc, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, CUDA_R_32F);
          plans.set<const void*>(desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, call.bias->buffer.data());
        }
        weight = layout(call.weight->dtype, in, out);
        x = layout(call.x.dtype, in, rows);
        y = layout(call.y.dtype, out, rows);
      } catch (...) {
        release();
        throw;
      }
    }
    ~Problem() { release(); }
    Problem(const Problem&) = delete;
    Problem& operator=(const Problem&) = delete;

    LtDesc desc = nullptr;
    LtLayout weight = nullptr;
    LtLayout x = nullptr;
    LtLayout y = nullptr;

   private:
    LtLayout layout(DType dtype, uint64_t rows, uint64_t columns) {
      LtLayout made = nullptr;
      plans_.expect(plans_.lt_.cublasLtMatrixLayoutCreate(&made, type_of(dtype), rows, columns, static_cast<int64_t>(rows)),
                    "cublasLtMatrixLayoutCreate");
      return made;
    }
    void release() {
      for (const LtLayout made : {weight, x, y}) {
        if (made) (void)plans_.lt_.cublasLtMatrixLayoutDestroy(made);
      }
      if (desc) (void)plans_.lt_.cublasLtMatmulDescDestroy(desc);
    }

    const Plans& plans_;
  };

  // False where the algorithm cannot do this product: then nothing was submitted.
  bool submit(const LinearCall& call, const LtAlgo& algorithm, void* workspace) const {
    const Problem problem(*this, call);
    const float alpha = 1, beta = call.residual.data ? 1 : 0;
    const void* addend = call.residual.data ? call.residual.data : call.y.data;
    return lt_.cublasLtMatmul(handle_, problem.desc, &alpha, call.weight->buffer.data(), problem.weight, call.x.data, problem.x, &beta, addend,
                              problem.y, call.y.data, problem.y, &algorithm, workspace, kWorkspaceBytes, device_.stream()) == CUBLAS_STATUS_SUCCESS;
  }

  // What the library proposes, best guess first; empty where it has no way.
  std::vector<LtAlgo> candidates(const LinearCall& call) const {
    const Problem problem(*this, call);
    LtPreference preference = nullptr;
    expect(lt_.cublasLtMatmulPreferenceCreate(&preference), "cublasLtMatmulPreferenceCreate");
    const auto prefer = [&](int attribute, auto value) {
      (void)lt_.cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof(value));
    };
    prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t{kWorkspaceBytes});
    // Parts of a split sum are added up in float32, never in the type of y.
    prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, uint32_t{CUBLASLT_REDUCTION_SCHEME_NONE | CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE});
    for (const int operand : {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                              CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
      prefer(operand, kAlignment);
    std::vector<LtHeuristic> found(kCandidates);
    int count = 0;
    const int status = lt_.cublasLtMatmulAlgoGetHeuristic(handle_, problem.desc, problem.weight, problem.x, problem.y, problem.y, preference,
                                                          kCandidates, found.data(), &count);
    (void)lt_.cublasLtMatmulPreferenceDestroy(preference);
    std::vector<LtAlgo> algorithms;
    for (int i = 0; status == CUBLAS_STATUS_SUCCESS && i < count; ++i) {
      if (found[static_cast<size_t>(i)].state == CUBLAS_STATUS_SUCCESS) algorithms.push_back(found[static_cast<size_t>(i)].algo);
    }
    return algorithms;
  }

  // As an earlier run chose, or by timing. What is kept counts only where the library proposes it again: its words are not ours to judge.
  LtAlgo chosen(const MatmulKey& key, const LinearCall& call, const std::vector<LtAlgo>& algorithms, void* workspace) {
    if (const LtAlgo* kept = choices_.find(key)) {
      const auto proposed = std::find_if(algorithms.begin(), algorithms.end(), [&](const LtAlgo& one) { return same(one, *kept); });
      if (proposed != algorithms.end()) return *proposed;
    }
    const LtAlgo best = fastest(call, algorithms, workspace);
    choices_.keep(key, best);
    return best;
  }

  // Timed into memory of our own, since y may be the residual, and with cold caches, as a layer's weights are in a real step: the memory
  // is as large as twice L2 and is overwritten before each timing. So that it need not be larger, few enough rows are taken.
  LtAlgo fastest(const LinearCall& call, const std::vector<LtAlgo>& algorithms, void* workspace) {
    const size_t row_bytes = static_cast<size_t>(call.y.width) * size_of(call.y.dtype);
    const size_t bytes = std::max(2 * device_.l2_bytes(), row_bytes);
    void* target = device_.scratch(Scratch::linear_partial, bytes);
    LinearCall trial = call;
    trial.x.rows = trial.y.rows = std::min(call.x.rows, static_cast<int64_t>(bytes / row_bytes));
    trial.y.data = target;
    trial.residual = {};
    const Event start = make_timing_event(), stop = make_timing_event();
    LtAlgo best = algorithms.front();
    float best_time = 0;
    for (const LtAlgo& algorithm : algorithms) {
      if (!submit(trial, algorithm, workspace)) continue;
      std::vector<float> times;
      for (int i = 0; i < kTimings; ++i) {
        check(cudaMemsetAsync(target, 0, bytes, device_.stream()), "linear");
        check(cudaEventRecord(start.get(), device_.stream()), "linear");
        if (!submit(trial, algorithm, workspace)) break;
        check(cudaEventRecord(stop.get(), device_.stream()), "linear");
        check(cudaEventSynchronize(stop.get()), "linear");
        check(cudaEventElapsedTime(&times.emplace_back(), start.get(), stop.get()), "linear");
      }
      if (times.empty()) continue;
      std::sort(times.begin(), times.end());
      const float time = times[times.size() / 2];
      if (best_time == 0 || time < best_time) {
        best = algorithm;
        best_time = time;
      }
    }
    return best;
  }

  const LtTable& lt_;
  const Device& device_;
  const bool tuning_;
  MatmulChoices choices_;
  LtHandle handle_ = nullptr;
  std::map<MatmulKey, LtAlgo> algorithms_;
};

MatmulLibrary::MatmulLibrary(const LtTable& table, const Device& device, const std::string& folder)
    : plans_(std::make_unique<Plans>(table, device, folder)) {}
MatmulLibrary::~MatmulLibrary() = default;
bool MatmulLibrary::run(const LinearCall& call) { return plans_->run(call); }

}  // namespace heddle::cuda
