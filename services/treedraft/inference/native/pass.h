// What Python hands over, as `decoder.py` lays it out.
#pragma once

#include <cstdint>

namespace treedraft {

struct Shape {
  int32_t num_layers, hidden, num_heads, num_kv_heads, head_dim, intermediate, vocab;
  float epsilon, scaling;
};

struct Pass {
  int64_t num_rows, num_outputs, num_threads;
  const float* embeddings;     // [vocabulary, hidden]
  const int64_t* token_ids;    // [rows]
  const int64_t* positions;    // [rows]
  const float* cos;            // [positions, head_dim]
  const float* sin;            // [positions, head_dim]
  const int64_t* write_slots;  // [rows]
  const int64_t* key_offsets;  // [rows + 1]
  const int64_t* key_slots;    // [key_offsets[rows]]: what each row sees, in the order of its text
  const int64_t* output_rows;  // [outputs]
  float* keys;                 // [layers, slots, kv_heads, head_dim]
  float* values;               // likewise
  int64_t layer_stride;        // numbers from one layer of keys to the next
  float* logits;               // [outputs, logit_stride]
  int64_t logit_stride;
};

}  // namespace treedraft
