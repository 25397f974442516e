// cuBLASLt for one rank: y = x · weightᵀ for many rows, each shape by the algorithm that was fastest when it came up first, in this run or
// in an earlier one (linear_choices.h).
// Rule: nothing here waits for another rank, so ranks may tune at different times.
#pragma once
#include <memory>
#include <string>

#include "cuda/device.h"
#include "cuda/dynlib.h"
#include "cuda/linear.h"

namespace heddle::cuda {

class MatmulLibrary {
 public:
  // `table` must outlive this. `folder`: where choices are kept from run to run; empty: nowhere. HEDDLE_MATMUL_TUNING=0: the library's
  // first guess is taken, and nothing is read or kept. Throws device_failed where the library cannot start on the current device.
  MatmulLibrary(const LtTable& table, const Device& device, const std::string& folder = "");
  ~MatmulLibrary();
  MatmulLibrary(const MatmulLibrary&) = delete;
  MatmulLibrary& operator=(const MatmulLibrary&) = delete;

  // Submits the product where the library has a way to do it: x and weight of one dtype, y of that or float32, no fold but a bias (and,
  // for float32 y, a float32 residual). False: nothing was submitted. Throws device_failed.
  bool run(const LinearCall& call);

 private:
  class Plans;
  std::unique_ptr<Plans> plans_;
};

}  // namespace heddle::cuda
