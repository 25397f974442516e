// What happens to one query or key head before it is used: RMS norm, then rotation.
#pragma once
#include <cstdint>
#include <cstring>

#include "core/backend.h"
#include "cpu/rotary.h"
#include "cpu/row_kernels.h"

namespace heddle::cpu {

class HeadPreparation {
 public:
  HeadPreparation(const Tensor* norm, const RotaryTable& rotary, const AttentionSpec& spec)
      : norm_(norm ? static_cast<const float*>(norm->buffer.data()) : nullptr),
        rotary_(rotary),
        spec_(spec),
        rows_(row_kernels()) {}

  void prepare(const float* source, int64_t token, float* target) const {
    if (norm_) {
      rows_.rms_norm(source, norm_, spec_.norm_eps, spec_.head_dim, target);
    } else {
      std::memcpy(target, source, static_cast<size_t>(spec_.head_dim) * sizeof(float));
    }
    if (rotary_.half > 0) rotate(target, rotary_, token);
  }

 private:
  const float* norm_;
  const RotaryTable& rotary_;
  const AttentionSpec& spec_;
  const RowKernels& rows_;
};

}  // namespace heddle::cpu
