// Few rows of x go through the dot kernels, which take the pieces row by row. Many rows: blocks of the result, and in each of them piece after
// piece, so that their sums are still near when they are added.
#include "cpu/linear_chunks.h"

#include <algorithm>

#include "core/sum_tree.h"
#include "cpu/linear_kernels.h"

namespace heddle::cpu {
namespace {

constexpr int64_t kBlockRows = 256;     // rows of x: the block of the tile kernels
constexpr int64_t kBlockColumns = 480;  // each packed row of x is to serve many, as it is packed anew for each block

// The block [rows, columns] of one piece, `first` elements into the contraction.
void run_piece(const LinearArgs& args, int64_t first, int64_t width, float* sums, const TileKernel& kernel, LinearScratch& scratch) {
  if (width == 0) {
    std::fill_n(sums, args.rows * args.out, 0.0f);
    return;
  }
  LinearArgs piece = args;
  piece.x = args.x + first;
  piece.weight = static_cast<const std::byte*>(args.weight) + first * static_cast<int64_t>(size_of(args.weight_dtype));
  piece.in = width;
  piece.x_stride = args.x_row();
  piece.weight_stride = args.weight_row();
  piece.y = sums;
  piece.y_stride = args.out;
  run_tiled(piece, kernel, scratch);
}

// args.y_stride is that of the whole result.
void run_block(const LinearArgs& args, const Chunks& chunks, const TileKernel& kernel, const ChunksScratch& scratch) {
  const int64_t size = args.rows * args.out;
  auto* sums = reinterpret_cast<float*>(scratch.sums.reserve(chunks.size() * static_cast<size_t>(size) * sizeof(float)));
  int64_t first = 0;
  for (size_t i = 0; i < chunks.size(); ++i) {
    run_piece(args, first, chunks[i], sums + static_cast<int64_t>(i) * size, kernel, scratch.linear);
    first += chunks[i];
  }
  add_tree(sums, size, 0, chunks.size(), size);
  for (int64_t row = 0; row < args.rows; ++row) std::copy_n(sums + row * args.out, args.out, args.y + row * args.y_row());
}

}  // namespace

void linear_chunks(const LinearArgs& args, const Chunks& chunks, const ChunksScratch& scratch, Isa isa) {
  if (args.rows == 0) return;
  LinearArgs call = args;
  if (call.weight_dtype == DType::float16) call.round_inputs = false;
  const LinearKernels& kernels = kernels_for(call, isa);
  if (call.rows <= kernels.dot_rows) return run_dot_chunks(call, chunks, kernels.dot, scratch.linear);
  const auto element = static_cast<int64_t>(size_of(args.weight_dtype));
  for (int64_t row = 0; row < args.rows; row += kBlockRows) {
    for (int64_t column = 0; column < args.out; column += kBlockColumns) {
      LinearArgs block = call;
      block.rows = std::min(kBlockRows, args.rows - row);
      block.out = std::min(kBlockColumns, args.out - column);
      block.x = args.x + row * args.in;
      block.weight = static_cast<const std::byte*>(args.weight) + column * args.in * element;
      block.y = args.y + row * args.out + column;
      block.y_stride = args.out;
      run_block(block, chunks, kernels.tile, scratch);
    }
  }
}

}  // namespace heddle::cpu
