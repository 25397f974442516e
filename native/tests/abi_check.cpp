// Compile-time only: cuda/nv_abi.h against NVIDIA's own headers, whose folders HEDDLE_NV_INCLUDE names. Target heddle_abi_check.
#include <cublasLt.h>
#include <nccl.h>

#include <cstddef>
#include <type_traits>

#include "cuda/nv_abi.h"

namespace abi = heddle::cuda::nvabi;

#define X(name, value) static_assert(static_cast<long long>(abi::name) == static_cast<long long>(name), #name);
HEDDLE_LT_CONSTANTS(X)
HEDDLE_NCCL_CONSTANTS(X)
#undef X
#if NCCL_VERSION_CODE >= 22700
static_assert(abi::kNcclWindowSymmetric == NCCL_WIN_COLL_SYMMETRIC);
#endif

static_assert(sizeof(abi::LtAlgo) == sizeof(cublasLtMatmulAlgo_t) && sizeof(abi::LtHeuristic) == sizeof(cublasLtMatmulHeuristicResult_t));
static_assert(offsetof(abi::LtHeuristic, workspace_size) == offsetof(cublasLtMatmulHeuristicResult_t, workspaceSize));
static_assert(offsetof(abi::LtHeuristic, state) == offsetof(cublasLtMatmulHeuristicResult_t, state));
static_assert(offsetof(abi::LtHeuristic, waves_count) == offsetof(cublasLtMatmulHeuristicResult_t, wavesCount));

// Pinned: NCCL reads the fields that the stated size covers.
static_assert(sizeof(abi::NcclId) == sizeof(ncclUniqueId) && sizeof(abi::NcclConfig) <= sizeof(ncclConfig_t));
static_assert(offsetof(abi::NcclConfig, magic) == offsetof(ncclConfig_t, magic));
static_assert(offsetof(abi::NcclConfig, version) == offsetof(ncclConfig_t, version));
static_assert(offsetof(abi::NcclConfig, blocking) == offsetof(ncclConfig_t, blocking));
static_assert(offsetof(abi::NcclConfig, unused) == offsetof(ncclConfig_t, cgaClusterSize));
static_assert(abi::NcclConfig{}.unused == NCCL_CONFIG_UNDEF_INT);
constexpr ncclConfig_t kInitialConfig = NCCL_CONFIG_INITIALIZER;
static_assert(abi::NcclConfig{}.magic == kInitialConfig.magic);

// Same number of arguments, each of the same size and kind (pointer or not).
template <class A, class B>
constexpr bool kAlike = sizeof(A) == sizeof(B) && std::is_pointer_v<A> == std::is_pointer_v<B>;
template <class, class>
struct Same : std::false_type {};
template <class R, class... A, class S, class... B>
  requires(sizeof...(A) == sizeof...(B))
struct Same<R (*)(A...), S (*)(B...)> : std::bool_constant<kAlike<R, S> && (kAlike<A, B> && ...)> {};

#define X(name, result, arguments) static_assert(Same<decltype(Table::name), decltype(&::name)>::value, #name);
namespace cublaslt {
using Table = abi::LtFunctions;
HEDDLE_LT_FUNCTIONS(X)
HEDDLE_LT_OPTIONAL_FUNCTIONS(X)
}  // namespace cublaslt
namespace nccl {
using Table = abi::NcclFunctions;
HEDDLE_NCCL_FUNCTIONS(X)
#if NCCL_VERSION_CODE >= 22700
HEDDLE_NCCL_OPTIONAL_FUNCTIONS(X)
#endif
}  // namespace nccl
#undef X
