// The algorithms that were fastest for matrix products, kept from run to run in a small file of the user's cache folder.
// Rule: never fatal. A file that is damaged, or of another GPU, driver or library, is as good as none; one that cannot be written is not.
#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <tuple>

#include "core/dtype.h"
#include "cuda/nv_abi.h"

namespace heddle::cuda {

// What decides which algorithm is best.
struct MatmulKey {
  int64_t bucket = 0;                                 // of rows
  int64_t in = 0;
  int64_t out = 0;
  DType dtype = DType::float32;
  DType y_dtype = DType::float32;
  bool biased = false;

  auto tie() const { return std::tie(bucket, in, out, dtype, y_dtype, biased); }
  bool operator<(const MatmulKey& other) const { return tie() < other.tie(); }
};

class MatmulChoices {
 public:
  // `identity`: one line that says what the choices hold for. `folder` empty: nothing is read or kept.
  MatmulChoices(const std::string& folder, const std::string& identity) noexcept;

  const nvabi::LtAlgo* find(const MatmulKey& key) const;  // null: none
  // Written at once, together with what other ranks and processes have written meanwhile, in one piece or not at all.
  void keep(const MatmulKey& key, const nvabi::LtAlgo& algorithm) noexcept;

 private:
  using Algorithms = std::map<MatmulKey, nvabi::LtAlgo>;
  Algorithms read() const;
  void write() const;

  std::string file_;                                  // empty: none
  std::string identity_;
  Algorithms algorithms_;
};

// $HEDDLE_CACHE, else heddle in $XDG_CACHE_HOME or ~/.cache; empty, so that nothing is kept, where HEDDLE_CACHE is or there is no home.
std::string cache_folder();

}  // namespace heddle::cuda
