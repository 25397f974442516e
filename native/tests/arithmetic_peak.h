// The arithmetic ceiling of one core: how many floating-point operations a second the instruction that an instruction set multiplies
// with can do at all, on registers alone. What the kernels of a linear layer are judged by where memory does not limit them.
#pragma once
#include "cpu/cpu_features.h"

namespace heddle::test {

// FLOP/s (a multiply and an add are two), the best of several short bursts; `isa` must be one of supported_isas().
double arithmetic_peak(cpu::Isa isa);

}  // namespace heddle::test
