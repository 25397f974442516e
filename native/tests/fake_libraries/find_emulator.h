// Finds the emulator in this process: in the program, or in a library that was loaded for itself.
#pragma once
#include "../emulator/emulator_hooks.h"

namespace heddle::fake {

// Throws std::runtime_error where there is none.
const HeddleEmulatorHooks& emulator();

// A setting of the environment, as a number.
long setting(const char* name, long otherwise);

}  // namespace heddle::fake
