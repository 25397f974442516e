// What the stand-ins of NVIDIA's libraries need of the emulator: they are libraries of their own, and find this table by its name.
#pragma once
#include <cuda_runtime_api.h>

struct HeddleEmulatorHooks {
  // Runs function(argument) on the stream: now, later, or at each launch of the graph that is being captured. Not 0: it failed.
  // `release` frees the argument after its last use.
  cudaError_t (*enqueue)(cudaStream_t stream, int (*function)(void* argument), void* argument, void (*release)(void* argument));
  int (*current_device)();
  int (*device_of)(const void* address, size_t bytes);   // whose memory holds the whole range; -1: no device's
  cudaError_t (*allocate)(void** pointer, size_t bytes);
  cudaError_t (*free)(void* pointer);
};

extern "C" __attribute__((visibility("default"))) const HeddleEmulatorHooks* heddle_emulator_hooks();
