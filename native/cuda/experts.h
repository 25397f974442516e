// The experts of a mixture: y = sum over this rank's experts with a weight other than 0 of weight * down · (kind(gate · x) * (up · x)).
// Everything is decided on the device, so a captured graph serves every routing.
#pragma once
#include <cstdint>

#include "core/backend.h"
#include "cuda/chunks.h"
#include "cuda/device.h"

namespace heddle::cuda {

struct ExpertsCall {
  View x;                                             // [rows, width]
  View routing;                                       // float32 [rows, experts of all ranks]
  const Tensor* gate_up = nullptr;                    // [experts, 2 (gate, up) * inner, width] as a matrix
  const Tensor* down = nullptr;                       // [experts, width, inner] as a matrix
  const ExpertsSpec* spec = nullptr;
  View y;                                             // [rows, width]; not the memory of x
  bool exact = false;                                 // as in LinearCall
};

// x and y are of any dtype; products are as those of `linear`, and like them in a reproducible group, or where the spec has pieces. Throws invalid_argument for a routing that is not float32, device_failed.
void experts(const Device& device, const ExpertsCall& call);

// What the kernels behind `experts` get. A pair is a row and one of its experts: number row * per_token + place among the row's experts.
struct ExpertsWork {
  const void* x;                                      // T [rows, width]
  const float* routing;                               // [rows, routing_width], from this rank's first expert on
  const void* gate_up;
  const void* down;
  void* inner_values;                                 // T [pairs, inner]
  void* y;
  int32_t* counts;                                    // [experts] pairs of each
  int32_t* pairs;                                     // [experts, rows]
  float* parts;                                       // [pieces of the inner width, pairs, width] terms of y
  int rows, per_token, width, inner;
  int routing_width, experts;
  DType y_dtype;
  Activation kind;
  ChunkTable chunks;                                  // of the inner width, or of the experts
  bool splits_experts;                                // chunks are of the experts
  bool aligned;                                       // rows of x, inner values and weights begin at multiples of 16 bytes
};

struct ExpertsTypes {
  DType gate_up;
  DType down;
  bool single;                                        // T is float32; else the weights' type
};

// Weights are streamed for each pair on its own: for up to kFewExpertRows rows.
constexpr int64_t kFewExpertRows = 16;
void experts_few(const Device& device, const ExpertsWork& work, const ExpertsTypes& types);

// Pairs are gathered by expert, and tiles of them multiplied: each expert's weights are read once for 64 of its pairs.
void experts_grouped(const Device& device, const ExpertsWork& work, const ExpertsTypes& types);
// The pairs of each expert into work.pairs and work.counts.
void list_pairs(const Device& device, const ExpertsWork& work);

// In pieces: both ways, chosen by the number of rows.
void experts_chunks(const Device& device, const ExpertsWork& work, const ExpertsTypes& types);

}  // namespace heddle::cuda
