// Own, minimal declarations of the C interfaces of cuBLASLt and NCCL, so that the CUDA backend compiles with nvcc alone.
// Rule: one list each of constants and functions; tests/abi_check.cpp compares every entry with NVIDIA's headers where those exist.
#pragma once
#include <cuda_runtime_api.h>  // cudaStream_t
#include <library_types.h>     // CUDA_R_32F …: part of the CUDA runtime
#include <stddef.h>
#include <stdint.h>

// Equal in cuBLASLt 12 and 13.
#define HEDDLE_LT_CONSTANTS(X) \
  X(CUBLAS_STATUS_SUCCESS, 0) X(CUBLAS_STATUS_NOT_SUPPORTED, 15) X(CUBLAS_COMPUTE_32F, 68) X(CUBLAS_OP_N, 0) X(CUBLAS_OP_T, 1) \
  X(CUBLASLT_ORDER_COL, 0) X(CUBLASLT_ORDER_ROW, 1) \
  X(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, 1) X(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, 3) \
  X(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, 5) X(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, 6) \
  X(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, 7) X(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, 8) \
  X(CUBLASLT_REDUCTION_SCHEME_NONE, 0) X(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE, 2) \
  X(CUBLASLT_MATMUL_DESC_TRANSA, 3) X(CUBLASLT_MATMUL_DESC_TRANSB, 4) X(CUBLASLT_MATMUL_DESC_EPILOGUE, 7) \
  X(CUBLASLT_MATMUL_DESC_BIAS_POINTER, 8) X(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, 26) \
  X(CUBLASLT_MATRIX_LAYOUT_ORDER, 1) X(CUBLASLT_MATRIX_LAYOUT_ROWS, 2) X(CUBLASLT_MATRIX_LAYOUT_COLS, 3) \
  X(CUBLASLT_MATRIX_LAYOUT_LD, 4) X(CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, 5) X(CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, 6) \
  X(CUBLASLT_EPILOGUE_DEFAULT, 1) X(CUBLASLT_EPILOGUE_RELU, 2) X(CUBLASLT_EPILOGUE_BIAS, 4) X(CUBLASLT_EPILOGUE_GELU, 32)

#define HEDDLE_NCCL_CONSTANTS(X) \
  X(ncclSuccess, 0) X(ncclInProgress, 7) X(ncclInt8, 0) X(ncclInt32, 2) X(ncclInt64, 4) X(ncclFloat16, 6) X(ncclFloat32, 7) \
  X(ncclBfloat16, 9) X(ncclSum, 0) X(ncclProd, 1) X(ncclMax, 2) X(ncclMin, 3) X(ncclAvg, 4)

namespace heddle::cuda::nvabi {

#define X(name, value) name = value,
enum : int { HEDDLE_LT_CONSTANTS(X) HEDDLE_NCCL_CONSTANTS(X) };
#undef X
constexpr int kNcclWindowSymmetric = 1;               // NCCL_WIN_COLL_SYMMETRIC, a macro of NCCL 2.27 and later

using LtHandle = struct LtHandleOpaque*;
using LtDesc = struct LtDescOpaque*;
using LtLayout = struct LtLayoutOpaque*;
using LtPreference = struct LtPreferenceOpaque*;
struct LtAlgo {
  uint64_t data[8];
};
struct LtHeuristic {
  LtAlgo algo;
  size_t workspace_size;
  int state;                                          // a status: CUBLAS_STATUS_SUCCESS where the algorithm can run
  float waves_count;
  int reserved[4];
};

using NcclComm = struct NcclCommOpaque*;
using NcclWindow = struct NcclWindowOpaque*;
struct NcclId {
  char internal[128];
};
// The beginning that every version since 2.14 knows: it says its own size, and NCCL takes defaults for the rest.
struct NcclConfig {
  size_t size = sizeof(NcclConfig);
  unsigned int magic = 0xcafebeef;
  unsigned int version = 21400;                       // of this layout: 2.14.0
  int blocking = 1;                                   // 0: calls return ncclInProgress, and an abort ends them
  int unused = INT32_MIN;                             // a later version's first field, "not set"
};

// X(function, result, arguments): what dlsym looks up. Enumerations and statuses are int.
#define HEDDLE_LT_FUNCTIONS(X) \
  X(cublasLtGetVersion, size_t, ()) X(cublasLtCreate, int, (LtHandle*)) X(cublasLtDestroy, int, (LtHandle)) \
  X(cublasLtMatmulDescCreate, int, (LtDesc*, int compute, int scale)) X(cublasLtMatmulDescDestroy, int, (LtDesc)) \
  X(cublasLtMatmulDescSetAttribute, int, (LtDesc, int attribute, const void* value, size_t bytes)) \
  X(cublasLtMatrixLayoutCreate, int, (LtLayout*, int type, uint64_t rows, uint64_t cols, int64_t ld)) \
  X(cublasLtMatrixLayoutDestroy, int, (LtLayout)) \
  X(cublasLtMatrixLayoutSetAttribute, int, (LtLayout, int attribute, const void* value, size_t bytes)) \
  X(cublasLtMatmulPreferenceCreate, int, (LtPreference*)) X(cublasLtMatmulPreferenceDestroy, int, (LtPreference)) \
  X(cublasLtMatmulPreferenceSetAttribute, int, (LtPreference, int attribute, const void* value, size_t bytes)) \
  X(cublasLtMatmulAlgoGetHeuristic, int, (LtHandle, LtDesc, LtLayout a, LtLayout b, LtLayout c, LtLayout d, LtPreference, \
    int wanted, LtHeuristic*, int* found)) \
  X(cublasLtMatmul, int, (LtHandle, LtDesc, const void* alpha, const void* a, LtLayout, const void* b, LtLayout, const void* beta, \
    const void* c, LtLayout, void* d, LtLayout, const LtAlgo*, void* workspace, size_t workspace_bytes, cudaStream_t))
// Null where the library does not have them.
#define HEDDLE_LT_OPTIONAL_FUNCTIONS(X) X(cublasLtGetStatusString, const char*, (int status))

#define HEDDLE_NCCL_FUNCTIONS(X) \
  X(ncclGetVersion, int, (int*)) X(ncclGetErrorString, const char*, (int status)) X(ncclGetUniqueId, int, (NcclId*)) \
  X(ncclCommInitRank, int, (NcclComm*, int size, NcclId, int rank)) X(ncclCommGetAsyncError, int, (NcclComm, int* status)) \
  X(ncclCommDestroy, int, (NcclComm)) X(ncclCommAbort, int, (NcclComm)) X(ncclGroupStart, int, ()) X(ncclGroupEnd, int, ()) \
  X(ncclAllReduce, int, (const void*, void*, size_t count, int type, int op, NcclComm, cudaStream_t)) \
  X(ncclReduceScatter, int, (const void*, void*, size_t count, int type, int op, NcclComm, cudaStream_t)) \
  X(ncclAllGather, int, (const void*, void*, size_t count, int type, NcclComm, cudaStream_t)) \
  X(ncclBroadcast, int, (const void*, void*, size_t count, int type, int root, NcclComm, cudaStream_t)) \
  X(ncclSend, int, (const void*, size_t count, int type, int peer, NcclComm, cudaStream_t)) \
  X(ncclRecv, int, (void*, size_t count, int type, int peer, NcclComm, cudaStream_t))
#define HEDDLE_NCCL_OPTIONAL_FUNCTIONS(X) \
  X(ncclCommInitRankConfig, int, (NcclComm*, int size, NcclId, int rank, NcclConfig*)) \
  X(ncclGetLastError, const char*, (NcclComm)) X(ncclMemAlloc, int, (void**, size_t)) X(ncclMemFree, int, (void*)) \
  X(ncclCommRegister, int, (const NcclComm, void*, size_t, void** handle)) X(ncclCommDeregister, int, (const NcclComm, void* handle)) \
  X(ncclCommWindowRegister, int, (NcclComm, void*, size_t, NcclWindow*, int flags)) \
  X(ncclCommWindowDeregister, int, (NcclComm, NcclWindow))

#define X(name, result, arguments) result(*name) arguments = nullptr;
struct LtFunctions {
  HEDDLE_LT_FUNCTIONS(X) HEDDLE_LT_OPTIONAL_FUNCTIONS(X)
};
struct NcclFunctions {
  HEDDLE_NCCL_FUNCTIONS(X) HEDDLE_NCCL_OPTIONAL_FUNCTIONS(X)
};
#undef X

}  // namespace heddle::cuda::nvabi
