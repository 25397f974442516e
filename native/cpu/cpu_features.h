// Which instruction set the CPU kernels use: decided by feature bits (never by a model number), restricted by
// HEDDLE_CPU_ISA.
#pragma once
#include <string>
#include <vector>

namespace heddle::cpu {

// In ascending order on x86; each level has everything below it. Other architectures know only `portable`: their
// baseline vectors.
enum class Isa { portable, avx2, avx512, avx512bf16, amx };

const char* name_of(Isa isa);

// The levels that this CPU and its operating system can run, ascending.
const std::vector<Isa>& supported_isas();

// The highest supported level, or the one that the environment variable HEDDLE_CPU_ISA names.
// Throws invalid_argument for a name that is none, unavailable for a level that this CPU lacks; both list the choice.
Isa cpu_isa();

// What cpu_isa() does, with the variable's value given: nullptr or "" is no restriction.
Isa choose_isa(const char* requested);

}  // namespace heddle::cpu
