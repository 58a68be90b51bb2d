// Attention of one query to the slots that its row sees.
//
// Heads whose size is a multiple of a vector are computed with all of a query, and
// all of an output, in registers. Sums run in one order for each size of head.
#pragma once

#include "linear.h"

namespace treedraft {

typedef float LooseFloats __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));

// exp for x <= 88: 2^n times a polynomial (Cephes), 1e-7 off.
inline float quick_exp(float x) {
  x = std::min(88.0f, std::max(-87.0f, x));
  const float n = std::floor(x * 1.44269504088896341f + 0.5f);
  const float r = x - n * 0.693359375f + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const int32_t bits = (static_cast<int32_t>(n) + 127) << 23;
  float power;
  std::memcpy(&power, &bits, 4);
  return p * power;
}

// The keys or values of one head: those of a slot are `stride` numbers apart.
struct HeadSlots {
  const float* first;
  int64_t stride;
  const int64_t* slots;
  int64_t count;

  const float* at(int64_t index) const { return first + slots[index] * stride; }
};

// Softmax in place.
inline void soften(float* scores, int64_t count) {
  float largest = scores[0];
  for (int64_t t = 1; t < count; ++t) largest = std::max(largest, scores[t]);
  for (int64_t t = 0; t < count; ++t) scores[t] = quick_exp(scores[t] - largest);
  float sum = 0.0f;
  for (int64_t t = 0; t < count; ++t) sum += scores[t];
  const float factor = 1.0f / sum;
  for (int64_t t = 0; t < count; ++t) scores[t] *= factor;
}

template <int kVectors>
void score_vectors(const float* query, float scaling, const HeadSlots& keys, float* scores) {
  LooseFloats q[kVectors];
  for (int v = 0; v < kVectors; ++v)
    q[v] = *reinterpret_cast<const LooseFloats*>(query + v * kLanes) * scaling;
  for (int64_t t = 0; t < keys.count; ++t) {
    const float* key = keys.at(t);
    LooseFloats sums = {};
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v)
      sums += q[v] * *reinterpret_cast<const LooseFloats*>(key + v * kLanes);
    float sum = 0.0f;
    for (int lane = 0; lane < kLanes; ++lane) sum += sums[lane];
    scores[t] = sum;
  }
}

template <int kVectors>
void mix_vectors(const float* weights, const HeadSlots& values, float* output) {
  LooseFloats sums[kVectors] = {};
  for (int64_t t = 0; t < values.count; ++t) {
    const float* value = values.at(t);
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v)
      sums[v] += weights[t] * *reinterpret_cast<const LooseFloats*>(value + v * kLanes);
  }
  for (int v = 0; v < kVectors; ++v)
    *reinterpret_cast<LooseFloats*>(output + v * kLanes) = sums[v];
}

// Heads of any other size.
inline void score_numbers(const float* query, float scaling, const HeadSlots& keys, int dim,
                          float* scores) {
  for (int64_t t = 0; t < keys.count; ++t) {
    float sum = 0.0f;
    for (int i = 0; i < dim; ++i) sum += query[i] * keys.at(t)[i];
    scores[t] = sum * scaling;
  }
}

inline void mix_numbers(const float* weights, const HeadSlots& values, int dim, float* output) {
  std::fill_n(output, dim, 0.0f);
  for (int64_t t = 0; t < values.count; ++t)
    for (int i = 0; i < dim; ++i) output[i] += weights[t] * values.at(t)[i];
}

// output [dim] = softmax(query · keys * scaling) · values; `scores` has room for all keys.
inline void attend(const float* query, float scaling, const HeadSlots& keys,
                   const HeadSlots& values, int dim, float* scores, float* output) {
  switch (dim % kLanes ? 0 : dim / kLanes) {
#define TREEDRAFT_HEAD(VECTORS)                          \
  case VECTORS:                                          \
    score_vectors<VECTORS>(query, scaling, keys, scores); \
    soften(scores, keys.count);                          \
    return mix_vectors<VECTORS>(scores, values, output);
    TREEDRAFT_HEAD(1)
    TREEDRAFT_HEAD(2)
    TREEDRAFT_HEAD(4)
    TREEDRAFT_HEAD(5)
    TREEDRAFT_HEAD(6)
    TREEDRAFT_HEAD(8)
    TREEDRAFT_HEAD(10)
    TREEDRAFT_HEAD(16)
#undef TREEDRAFT_HEAD
    default:
      score_numbers(query, scaling, keys, dim, scores);
      soften(scores, keys.count);
      mix_numbers(scores, values, dim, output);
  }
}

}  // namespace treedraft
