// Attention of the CUDA backend by its own kernels.
#include "attention_harness.h"

namespace heddle::test {
namespace {

using Case = AttentionCase;
using Harness = AttentionHarness;

void prefill_then_decode(const Case& c) {
  Harness harness(c, 1, 40);
  harness.step({21});
  for (int i = 0; i < 3; ++i) harness.step({1});
  harness.step({3});
}

HEDDLE_TEST(cuda_attention_of_every_head_dimension) {
  for (const int64_t head_dim : {2, 6, 7, 8, 16, 33, 64, 80, 96, 128, 200, 256}) {
    prefill_then_decode({.head_dim = head_dim, .kv_head_of_query = {0, 0}});
    prefill_then_decode(in_16_bits({.head_dim = head_dim, .kv_head_of_query = {0, 0}}));
  }
}

HEDDLE_TEST(cuda_attention_of_mixed_dtypes) {
  for (const DType cache : {DType::float32, DType::bfloat16, DType::float16}) {
    for (const DType activation : {DType::float32, DType::bfloat16, DType::float16}) {
      prefill_then_decode({.head_dim = 64, .kv_head_of_query = {0, 0}, .rope_dim = 64, .cache = cache, .qkv = activation, .y = activation});
    }
    prefill_then_decode({.head_dim = 64, .cache = cache, .qkv = DType::float32, .y = DType::bfloat16});
  }
}

HEDDLE_TEST(cuda_attention_rotates_and_normalizes) {
  for (const Case& c : {Case{.head_dim = 64, .rope_dim = 64}, Case{.head_dim = 64, .rope_dim = 64, .norms = true},
                        Case{.head_dim = 64, .rope_dim = 24, .rope_scale = 1.3f, .norms = true},
                        Case{.head_dim = 10, .rope_dim = 6, .norms = true}}) {
    prefill_then_decode(c);
    prefill_then_decode(in_16_bits(c));
    prefill_then_decode(in_16_bits(c, DType::float16));
  }
}

HEDDLE_TEST(cuda_attention_maps_query_heads_to_kv_heads) {
  const std::vector<Case> cases = {
      {.head_dim = 64, .kv_head_of_query = {0, 0, 1, 1}, .kv_head_count = 2},
      {.head_dim = 64, .kv_head_of_query = {1, 0, 1, 2, 0, 1}, .kv_head_count = 3, .rope_dim = 16},
      {.head_dim = 64, .kv_head_of_query = {2, 2, 2}, .kv_head_count = 4},   // KV heads that nobody reads
      {.head_dim = 64, .kv_head_of_query = heads_of_one(8)},
      {.head_dim = 64, .kv_head_of_query = heads_of_one(12)},                // more than half of an mma's rows
      {.head_dim = 64, .kv_head_of_query = heads_of_one(37)},                // more than one block takes
      {.head_dim = 128, .kv_head_of_query = heads_of_one(11)},
  };
  for (const Case& c : cases) {
    prefill_then_decode(c);
    prefill_then_decode(in_16_bits(c));
  }
  prefill_then_decode({.head_dim = 64, .kv_head_of_query = heads_of_one(12), .cache = DType::bfloat16});  // exact queries in chunks of 8
}

HEDDLE_TEST(cuda_attention_slides_its_window) {
  for (const int64_t window : {1, 2, 5, 16, 30, 100}) {
    prefill_then_decode({.kv_head_of_query = {0, 0}, .sliding_window = window, .block_size = 4});
    prefill_then_decode(in_16_bits({.head_dim = 64, .kv_head_of_query = {0, 0}, .sliding_window = window}));
  }
}

HEDDLE_TEST(cuda_attention_slides_its_window_over_tiles_and_splits) {
  for (const int64_t window : {63, 70, 200}) {
    for (const Case& c : {Case{.head_dim = 16, .sliding_window = window}, in_16_bits({.head_dim = 64, .sliding_window = window}),
                          in_16_bits({.head_dim = 128, .sliding_window = window})}) {
      Harness harness(c, 1, 400);
      harness.step({250});
      harness.step({1});
      harness.step({3});
      harness.step({97});
      harness.step({1});
    }
  }
}

HEDDLE_TEST(cuda_attention_without_causality_sees_the_whole_sequence) {
  for (const Case& c : {Case{.head_dim = 64, .kv_head_of_query = {0, 1}, .kv_head_count = 2, .causal = false},
                        Case{.head_dim = 64, .kv_head_of_query = {0, 1}, .kv_head_count = 2, .causal = false, .sliding_window = 6}}) {
    for (const Case& each : {c, in_16_bits(c)}) {
      Harness harness(each, 2, 150);
      harness.step({140, 3});
      harness.step({2, 5});
      harness.step({1, 1});
    }
  }
}

HEDDLE_TEST(cuda_attention_of_odd_blocks) {
  for (const int64_t block_size : {1, 16, 33}) {
    for (const Case& c : {Case{.kv_head_of_query = {0, 0}, .block_size = block_size},
                          in_16_bits({.head_dim = 64, .kv_head_of_query = {0, 0}, .block_size = block_size})}) {
      Harness harness(c, 1, 90);
      for (const int32_t count : {1, 15, 1, 14, 1, 1, 30, 1, 1, 1}) harness.step({count});
    }
  }
}

// Contexts on both sides of every border: tiles of 16 and 64 keys, splits of 64, blocks of 16.
HEDDLE_TEST(cuda_attention_decodes_around_borders) {
  for (const Case& c : {Case{.head_dim = 16, .kv_head_of_query = {0, 0}},
                        in_16_bits({.head_dim = 64, .kv_head_of_query = heads_of_one(4), .rope_dim = 64})}) {
    for (const int32_t first : {14, 62, 127, 190}) {
      Harness harness(c, 1, 200);
      harness.step({first});
      for (int i = 0; i < 4; ++i) harness.step({1});
    }
  }
}

HEDDLE_TEST(cuda_attention_decodes_long_contexts_in_many_parts) {
  for (const Case& c : {Case{.head_dim = 16, .kv_head_of_query = {0, 0}}, in_16_bits({.head_dim = 64, .kv_head_of_query = heads_of_one(4)}),
                        in_16_bits({.head_dim = 128, .kv_head_of_query = heads_of_one(9), .rope_dim = 128, .norms = true})}) {
    Harness harness(c, 3, 1100);
    harness.step({1000, 257, 1});
    for (int i = 0; i < 2; ++i) harness.step({1, 1, 1});
  }
}

HEDDLE_TEST(cuda_attention_mixes_prefill_and_decode_in_one_step) {
  for (const Case& c :
       {Case{.head_dim = 32, .kv_head_of_query = {0, 0, 1, 1}, .kv_head_count = 2, .rope_dim = 32, .norms = true},
        in_16_bits({.head_dim = 64, .kv_head_of_query = {0, 0, 1, 1}, .kv_head_count = 2, .rope_dim = 32, .norms = true}),
        in_16_bits({.head_dim = 128, .kv_head_of_query = {1, 0}, .kv_head_count = 2, .rope_dim = 128}, DType::float16)}) {
    Harness harness(c, 4, 160);
    harness.step({9, 0, 1, 0});
    harness.step({1, 130, 1, 0});
    harness.step({1, 1, 4, 17});
    harness.step({12, 1, 0, 1});
  }
}

HEDDLE_TEST(cuda_attention_of_prompts_beyond_one_tile_of_queries) {
  for (const int64_t head_dim : {64, 96, 128, 256}) {
    Harness harness(in_16_bits({.head_dim = head_dim, .kv_head_of_query = {0, 0}, .rope_dim = 16}), 1, 400);
    harness.step({201});
    harness.step({2});
    harness.step({150});
  }
  Harness plain({.kv_head_of_query = {0, 0, 0}, .rope_dim = 16}, 1, 400);
  plain.step({201});
  plain.step({150});
}

HEDDLE_TEST(cuda_attention_skips_the_padding_of_a_bucket) {
  for (const Case& c : {Case{.head_dim = 16, .padding = 3}, in_16_bits({.head_dim = 64, .kv_head_of_query = {0, 0}, .padding = 3})}) {
    Harness harness(c, 2, 120);
    harness.step({20, 70});
    harness.step({1, 1});
    harness.step({1, 0});
    harness.step({1, 2});
  }
}

HEDDLE_TEST(cuda_attention_replays_one_graph_at_growing_contexts) {
  for (const Case& c : {Case{.head_dim = 16, .kv_head_of_query = {0, 0}},
                        in_16_bits({.head_dim = 64, .kv_head_of_query = {0, 0, 1}, .kv_head_count = 2, .rope_dim = 64})}) {
    Harness harness(c, 2, 200);
    harness.step({60, 125});                          // on the way one more part of the keys comes into use
    harness.decode_by_graph(9);
  }
}

HEDDLE_TEST(cuda_attention_refuses_what_it_has_no_room_for) {
  const cuda::Device device(0);
  const auto attend = [&](int64_t head_dim, int64_t heads) {
    const AttentionSpec spec = spec_of({.head_dim = head_dim, .kv_head_of_query = heads_of_one(heads)}, 1);
    Tensor cache{DType::float32, {2, 1, 1, 16, head_dim}, TensorRole::cache, {}};
    cuda::attention(device, {.step = {}, .shape = {1, 1, 1, 1}, .qkv = {}, .tensors = {.cache = &cache}, .spec = &spec, .y = {}});
  };
  check_throws(ErrorCode::invalid_argument, [&] { attend(258, 1); }, "a head dimension of 258");
  check_throws(ErrorCode::invalid_argument, [&] { attend(64, 257); }, "257 heads");
}

}  // namespace
}  // namespace heddle::test
