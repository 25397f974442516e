// Stands in for libcublasLt: the functions of cuda/nv_abi.h with their real names, on the emulator's memory and streams. Sums are double.
// Rule: what the real library refuses, or would crash on, is refused with its status.
//
//   HEDDLE_FAKE_CUBLASLT_VERSION     130100
//   HEDDLE_FAKE_CUBLASLT_ALGORITHMS  how many are proposed (4); 0: none, and the status says so
//   HEDDLE_FAKE_CUBLASLT_BAD         bits: algorithms that are proposed, and refuse when they are run
#include "cuda/nv_abi.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <exception>
#include <memory>
#include <type_traits>
#include <vector>

#include "core/dtype.h"
#include "find_emulator.h"

namespace heddle::cuda::nvabi {

struct LtHandleOpaque {
  int device;
};
struct LtDescOpaque {
  int32_t transpose_a = CUBLAS_OP_N;
  int32_t transpose_b = CUBLAS_OP_N;
  int32_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  int32_t bias_type = -1;                             // that of d
  const void* bias = nullptr;
};
struct LtLayoutOpaque {
  int32_t type;
  int32_t order = CUBLASLT_ORDER_COL;
  uint64_t rows;
  uint64_t columns;
  int64_t ld;
  int32_t batch_count = 1;
  int64_t batch_stride = 0;
};
struct LtPreferenceOpaque {
  uint64_t workspace = 0;
  uint32_t reduction_schemes = ~0u;
  uint32_t alignments[4] = {256, 256, 256, 256};      // of a, b, c, d: what the real one takes for granted
};

}  // namespace heddle::cuda::nvabi

namespace {

using namespace heddle::cuda::nvabi;

constexpr int kNotInitialized = 1;
constexpr int kInvalidValue = 7;
constexpr int kExecutionFailed = 13;
constexpr uint64_t kMagic = 0x68656464'6c656c74u;     // marks an algorithm that a heuristic gave

size_t size_of_type(int type) { return type == CUDA_R_32F ? 4 : 2; }
bool is_known(int type) { return type == CUDA_R_32F || type == CUDA_R_16BF || type == CUDA_R_16F; }

float read(const void* data, int type, size_t i) {
  if (type == CUDA_R_32F) return static_cast<const float*>(data)[i];
  const uint16_t bits = static_cast<const uint16_t*>(data)[i];
  return type == CUDA_R_16BF ? heddle::bfloat16_to_float(bits) : heddle::float16_to_float(bits);
}
void write(void* data, int type, size_t i, float value) {
  if (type == CUDA_R_32F) static_cast<float*>(data)[i] = value;
  else static_cast<uint16_t*>(data)[i] = type == CUDA_R_16BF ? heddle::float_to_bfloat16(value) : heddle::float_to_float16(value);
}

// What heuristic i promised, as it lies in the algorithm's opaque words.
struct Algorithm {
  uint64_t magic = kMagic;
  uint64_t index = 0;
  uint64_t workspace = 0;
  uint32_t alignments[4] = {};
};
static_assert(sizeof(Algorithm) <= sizeof(LtAlgo));

struct Product {
  LtDescOpaque desc;
  float alpha, beta;
  const void* a;
  const void* b;
  const void* c;
  void* d;
  LtLayoutOpaque a_layout, b_layout, c_layout, d_layout;

  uint64_t rows() const { return d_layout.rows; }
  uint64_t columns() const { return d_layout.columns; }
  uint64_t depth() const { return desc.transpose_a == CUBLAS_OP_T ? a_layout.rows : a_layout.columns; }
};

size_t element(const LtLayoutOpaque& layout, uint64_t batch, uint64_t row, uint64_t column) {
  const auto ld = static_cast<uint64_t>(layout.ld);
  return batch * static_cast<uint64_t>(layout.batch_stride) + (layout.order == CUBLASLT_ORDER_COL ? column * ld + row : row * ld + column);
}
size_t bytes_of(const LtLayoutOpaque& layout) {
  return (element(layout, static_cast<uint64_t>(layout.batch_count) - 1, layout.rows - 1, layout.columns - 1) + 1) * size_of_type(layout.type);
}

// ---- what can be multiplied ----

bool is_sound(const LtLayoutOpaque& layout) {
  const uint64_t length = layout.order == CUBLASLT_ORDER_COL ? layout.rows : layout.columns;
  return layout.rows > 0 && layout.columns > 0 && layout.batch_count > 0 && layout.ld > 0 && static_cast<uint64_t>(layout.ld) >= length;
}

int check_shapes(const Product& p) {
  for (const LtLayoutOpaque* layout : {&p.a_layout, &p.b_layout, &p.c_layout, &p.d_layout}) {
    if (!is_sound(*layout) || layout->batch_count != p.d_layout.batch_count) return kInvalidValue;
  }
  const bool ta = p.desc.transpose_a == CUBLAS_OP_T;
  const bool tb = p.desc.transpose_b == CUBLAS_OP_T;
  const bool fits = (ta ? p.a_layout.columns : p.a_layout.rows) == p.rows() && (tb ? p.b_layout.rows : p.b_layout.columns) == p.columns() &&
                    (tb ? p.b_layout.columns : p.b_layout.rows) == p.depth() && p.c_layout.rows == p.rows() && p.c_layout.columns == p.columns();
  return fits ? CUBLAS_STATUS_SUCCESS : kInvalidValue;
}

// The combinations of CUBLAS_COMPUTE_32F with float32 scales in the table of cublasLtMatmul.
int check_types(const Product& p) {
  const int in = p.a_layout.type;
  const int out = p.d_layout.type;
  if (!is_known(in) || p.b_layout.type != in || p.c_layout.type != out || p.c_layout.order != p.d_layout.order) return CUBLAS_STATUS_NOT_SUPPORTED;
  if (out != CUDA_R_32F && out != in) return CUBLAS_STATUS_NOT_SUPPORTED;
  const bool biased = (p.desc.epilogue & CUBLASLT_EPILOGUE_BIAS) != 0;
  if (biased && p.desc.bias_type != -1 && p.desc.bias_type != out) return CUBLAS_STATUS_NOT_SUPPORTED;
  return CUBLAS_STATUS_SUCCESS;
}

int check_memory(const Product& p, const Algorithm& algorithm, const void* workspace, size_t workspace_bytes) {
  const struct { const void* data; const LtLayoutOpaque* layout; } sides[] = {{p.a, &p.a_layout}, {p.b, &p.b_layout}, {p.c, &p.c_layout}, {p.d, &p.d_layout}};
  for (size_t i = 0; i < 4; ++i) {
    if (i == 2 && p.beta == 0) continue;              // c is not read
    if (reinterpret_cast<uintptr_t>(sides[i].data) % std::max(1u, algorithm.alignments[i]) != 0) return kInvalidValue;
    if (heddle::fake::emulator().device_of(sides[i].data, bytes_of(*sides[i].layout)) < 0) return kInvalidValue;
  }
  if (algorithm.workspace > workspace_bytes || (algorithm.workspace > 0 && !workspace)) return kInvalidValue;
  const bool biased = (p.desc.epilogue & CUBLASLT_EPILOGUE_BIAS) != 0;
  if (!biased) return CUBLAS_STATUS_SUCCESS;
  return p.desc.bias && heddle::fake::emulator().device_of(p.desc.bias, p.rows() * size_of_type(p.d_layout.type)) >= 0 ? CUBLAS_STATUS_SUCCESS : kInvalidValue;
}

// ---- multiplying ----

double finished(double sum, int epilogue) {
  if (epilogue & CUBLASLT_EPILOGUE_RELU) return std::max(sum, 0.0);
  // The library's gelu is the one by tanh.
  if (epilogue & CUBLASLT_EPILOGUE_GELU) return 0.5 * sum * (1 + std::tanh(0.7978845608028654 * (sum + 0.044715 * sum * sum * sum)));
  return sum;
}

// Rows (or, where `transposed`, columns) of a matrix, one behind the other.
std::vector<float> packed(const void* data, const LtLayoutOpaque& layout, uint64_t batch, bool transposed, uint64_t count, uint64_t depth) {
  std::vector<float> values(count * depth);
  for (uint64_t i = 0; i < count; ++i) {
    for (uint64_t k = 0; k < depth; ++k) {
      values[i * depth + k] = read(data, layout.type, transposed ? element(layout, batch, k, i) : element(layout, batch, i, k));
    }
  }
  return values;
}

double dot(const float* x, const float* y, uint64_t count) {
  double sums[4] = {};
  uint64_t i = 0;
  for (; i + 4 <= count; i += 4) {
    for (uint64_t j = 0; j < 4; ++j) sums[j] += double{x[i + j]} * double{y[i + j]};
  }
  for (; i < count; ++i) sums[0] += double{x[i]} * double{y[i]};
  return sums[0] + sums[1] + sums[2] + sums[3];
}

void multiply(const Product& p, uint64_t batch) {
  const uint64_t depth = p.depth();
  const std::vector<float> a = packed(p.a, p.a_layout, batch, p.desc.transpose_a == CUBLAS_OP_T, p.rows(), depth);
  const std::vector<float> b = packed(p.b, p.b_layout, batch, p.desc.transpose_b == CUBLAS_OP_N, p.columns(), depth);
  for (uint64_t j = 0; j < p.columns(); ++j) {
    for (uint64_t i = 0; i < p.rows(); ++i) {
      double sum = double{p.alpha} * dot(&a[i * depth], &b[j * depth], depth);
      if (p.beta != 0) sum += double{p.beta} * double{read(p.c, p.c_layout.type, element(p.c_layout, batch, i, j))};
      if (p.desc.epilogue & CUBLASLT_EPILOGUE_BIAS) sum += double{read(p.desc.bias, p.d_layout.type, i)};
      write(p.d, p.d_layout.type, element(p.d_layout, batch, i, j), static_cast<float>(finished(sum, p.desc.epilogue)));
    }
  }
}

int run(void* argument) {
  const auto& product = *static_cast<const Product*>(argument);
  for (int i = 0; i < product.d_layout.batch_count; ++i) multiply(product, static_cast<uint64_t>(i));
  return 0;
}

// Takes an attribute of exactly its size.
template <class T>
int take(T& target, const void* value, size_t bytes) {
  if (!value || bytes != sizeof(T)) return kInvalidValue;
  std::memcpy(&target, value, sizeof(T));
  return CUBLAS_STATUS_SUCCESS;
}

template <class T>
int destroy(T* object) {
  delete object;
  return CUBLAS_STATUS_SUCCESS;
}

}  // namespace

#pragma GCC visibility push(default)
extern "C" {

size_t cublasLtGetVersion() { return static_cast<size_t>(heddle::fake::setting("HEDDLE_FAKE_CUBLASLT_VERSION", 130100)); }

const char* cublasLtGetStatusString(int status) {
  switch (status) {
    case CUBLAS_STATUS_SUCCESS: return "CUBLAS_STATUS_SUCCESS";
    case kNotInitialized: return "CUBLAS_STATUS_NOT_INITIALIZED";
    case kInvalidValue: return "CUBLAS_STATUS_INVALID_VALUE";
    case kExecutionFailed: return "CUBLAS_STATUS_EXECUTION_FAILED";
    case CUBLAS_STATUS_NOT_SUPPORTED: return "CUBLAS_STATUS_NOT_SUPPORTED";
    default: return "unknown";
  }
}

int cublasLtCreate(LtHandle* handle) {
  try {
    *handle = new LtHandleOpaque{heddle::fake::emulator().current_device()};
    return CUBLAS_STATUS_SUCCESS;
  } catch (const std::exception&) {
    return kNotInitialized;
  }
}
int cublasLtDestroy(LtHandle handle) { return destroy(handle); }

int cublasLtMatmulDescCreate(LtDesc* desc, int compute, int scale) {
  if (compute != CUBLAS_COMPUTE_32F || scale != CUDA_R_32F) return CUBLAS_STATUS_NOT_SUPPORTED;
  *desc = new LtDescOpaque();
  return CUBLAS_STATUS_SUCCESS;
}
int cublasLtMatmulDescDestroy(LtDesc desc) { return destroy(desc); }
int cublasLtMatmulDescSetAttribute(LtDesc desc, int attribute, const void* value, size_t bytes) {
  switch (attribute) {
    case CUBLASLT_MATMUL_DESC_TRANSA: return take(desc->transpose_a, value, bytes);
    case CUBLASLT_MATMUL_DESC_TRANSB: return take(desc->transpose_b, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE: return take(desc->epilogue, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER: return take(desc->bias, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE: return take(desc->bias_type, value, bytes);
    default: return kInvalidValue;
  }
}

int cublasLtMatrixLayoutCreate(LtLayout* layout, int type, uint64_t rows, uint64_t cols, int64_t ld) {
  if (!is_known(type)) return CUBLAS_STATUS_NOT_SUPPORTED;
  *layout = new LtLayoutOpaque{.type = type, .rows = rows, .columns = cols, .ld = ld};
  return CUBLAS_STATUS_SUCCESS;
}
int cublasLtMatrixLayoutDestroy(LtLayout layout) { return destroy(layout); }
int cublasLtMatrixLayoutSetAttribute(LtLayout layout, int attribute, const void* value, size_t bytes) {
  switch (attribute) {
    case CUBLASLT_MATRIX_LAYOUT_ORDER: return take(layout->order, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_ROWS: return take(layout->rows, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_COLS: return take(layout->columns, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_LD: return take(layout->ld, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT: return take(layout->batch_count, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET: return take(layout->batch_stride, value, bytes);
    default: return kInvalidValue;
  }
}

int cublasLtMatmulPreferenceCreate(LtPreference* preference) {
  *preference = new LtPreferenceOpaque();
  return CUBLAS_STATUS_SUCCESS;
}
int cublasLtMatmulPreferenceDestroy(LtPreference preference) { return destroy(preference); }
int cublasLtMatmulPreferenceSetAttribute(LtPreference preference, int attribute, const void* value, size_t bytes) {
  switch (attribute) {
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES: return take(preference->workspace, value, bytes);
    case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK: return take(preference->reduction_schemes, value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES: return take(preference->alignments[0], value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES: return take(preference->alignments[1], value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES: return take(preference->alignments[2], value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES: return take(preference->alignments[3], value, bytes);
    default: return kInvalidValue;
  }
}

// Every second algorithm wants the whole workspace.
int cublasLtMatmulAlgoGetHeuristic(LtHandle, LtDesc desc, LtLayout a, LtLayout b, LtLayout c, LtLayout d, LtPreference preference, int wanted,
                                   LtHeuristic* results, int* found) {
  *found = 0;
  const Product product = {*desc, 1, 0, nullptr, nullptr, nullptr, nullptr, *a, *b, *c, *d};
  if (const int status = check_shapes(product)) return status;
  if (const int status = check_types(product)) return status;
  const int count = std::min(wanted, static_cast<int>(heddle::fake::setting("HEDDLE_FAKE_CUBLASLT_ALGORITHMS", 4)));
  if (count <= 0) return CUBLAS_STATUS_NOT_SUPPORTED;
  for (int i = 0; i < count; ++i) {
    Algorithm algorithm;
    algorithm.index = static_cast<uint64_t>(i);
    algorithm.workspace = i % 2 ? preference->workspace : 0;
    std::copy_n(preference->alignments, 4, algorithm.alignments);
    results[i] = {};
    std::memcpy(&results[i].algo, &algorithm, sizeof(algorithm));
    results[i].workspace_size = algorithm.workspace;
    results[i].state = CUBLAS_STATUS_SUCCESS;
    results[i].waves_count = 1;
  }
  *found = count;
  return CUBLAS_STATUS_SUCCESS;
}

int cublasLtMatmul(LtHandle handle, LtDesc desc, const void* alpha, const void* a, LtLayout a_layout, const void* b, LtLayout b_layout,
                   const void* beta, const void* c, LtLayout c_layout, void* d, LtLayout d_layout, const LtAlgo* algo, void* workspace,
                   size_t workspace_bytes, cudaStream_t stream) {
  if (!handle || !desc || !alpha || !beta || !a_layout || !b_layout || !c_layout || !d_layout) return kInvalidValue;
  auto product = std::make_unique<Product>(Product{*desc, *static_cast<const float*>(alpha), *static_cast<const float*>(beta), a, b, c, d,
                                                   *a_layout, *b_layout, *c_layout, *d_layout});
  Algorithm algorithm;
  if (algo) std::memcpy(static_cast<void*>(&algorithm), algo, sizeof(algorithm));
  if (algorithm.magic != kMagic) return kInvalidValue;
  if (heddle::fake::setting("HEDDLE_FAKE_CUBLASLT_BAD", 0) >> algorithm.index & 1) return CUBLAS_STATUS_NOT_SUPPORTED;
  if (const int status = check_shapes(*product)) return status;
  if (const int status = check_types(*product)) return status;
  if (const int status = check_memory(*product, algorithm, workspace, workspace_bytes)) return status;
  const auto release = [](void* argument) { delete static_cast<Product*>(argument); };
  const cudaError_t error = heddle::fake::emulator().enqueue(stream, run, product.release(), release);
  return error == cudaSuccess ? CUBLAS_STATUS_SUCCESS : kExecutionFailed;
}

}  // extern "C"
#pragma GCC visibility pop

#define X(name, result, arguments) static_assert(std::is_same_v<decltype(LtFunctions::name), decltype(&::name)>, #name);
HEDDLE_LT_FUNCTIONS(X) HEDDLE_LT_OPTIONAL_FUNCTIONS(X)
#undef X
