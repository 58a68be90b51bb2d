// Attention of a row's queries to the slots that the row sees.
//
// Query heads that share keys are computed together, each with all of its query and
// all of its output in registers. Sums run in one order for each size of head, and over
// keys in the order of the row's text, whatever is computed beside them.
#pragma once

#include <vector>

#include "vectors.h"

namespace treedraft {

constexpr int kMostHeads = 4;  // computed together
constexpr int kKeys = 4;       // whose scores are added up together
constexpr int kKeysAhead = 16;

// The keys or values of one head: those of a slot are `stride` numbers apart.
struct HeadSlots {
  const float* first;
  int64_t stride;
  const int64_t* slots;
  int64_t count;

  const float* at(int64_t index) const { return first + slots[index] * stride; }

  // Slots lie too far apart for the machine to see what comes next.
  template <int kNumbers>
  void fetch_at(int64_t index) const {
    const float* numbers = at(std::min(index, count - 1));
    for (int at = 0; at < kNumbers; at += 16) fetch(reinterpret_cast<const char*>(numbers + at));
  }
};

// Room for the scores of several heads, in whole vectors.
class Scores {
 public:
  void reserve(int64_t num_keys) {
    stride_ = (num_keys + kLanes - 1) / kLanes * kLanes;
    numbers_.resize(stride_ * kMostHeads);
  }
  float* of(int head) { return &numbers_[head * stride_]; }
  const float* of(int head) const { return &numbers_[head * stride_]; }

 private:
  int64_t stride_ = 0;
  std::vector<float> numbers_;
};

// The sums of four vectors, each added up in the same order.
inline void four_sums(const Floats (&v)[kKeys], float* sums) {
#if defined(__AVX512F__)
  const __m512 a = reinterpret_cast<__m512>(v[0]), b = reinterpret_cast<__m512>(v[1]);
  const __m512 c = reinterpret_cast<__m512>(v[2]), d = reinterpret_cast<__m512>(v[3]);
  const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
  const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
  const __m512 all = _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee));
  const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));
  _mm_storeu_ps(sums, _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1)));
#elif defined(__AVX2__)
  const __m256 a = reinterpret_cast<__m256>(v[0]), b = reinterpret_cast<__m256>(v[1]);
  const __m256 c = reinterpret_cast<__m256>(v[2]), d = reinterpret_cast<__m256>(v[3]);
  const __m256 ab = _mm256_add_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
  const __m256 cd = _mm256_add_ps(_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
  const __m256 all = _mm256_add_ps(_mm256_shuffle_ps(ab, cd, 0x44), _mm256_shuffle_ps(ab, cd, 0xee));
  _mm_storeu_ps(sums, _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1)));
#else
  for (int key = 0; key < kKeys; ++key) sums[key] = sum(v[key]);
#endif
}

// Softmax in place, but for the division: returns what is to be multiplied with.
inline float soften(float* scores, int64_t count) {
  const int64_t padded = (count + kLanes - 1) / kLanes * kLanes;
  std::fill(scores + count, scores + padded, -INFINITY);
  Floats peak = load(scores);
  for (int64_t t = kLanes; t < padded; t += kLanes) peak = larger(peak, load(scores + t));
  const float most = largest(peak);
  Floats total = {};
  for (int64_t t = 0; t < padded; t += kLanes) {
    const Floats power = quick_exp(load(scores + t) - most);
    store(scores + t, power);
    total += power;
  }
  return 1.0f / sum(total);
}

template <int kVectors, int kHeads>
void score_heads(const float* queries, float scaling, const HeadSlots& keys,
                 const HeadSlots& values, Scores& scores) {
  constexpr int kDim = kVectors * kLanes;
  Floats q[kHeads][kVectors];
  for (int h = 0; h < kHeads; ++h)
    for (int v = 0; v < kVectors; ++v) q[h][v] = load(queries + h * kDim + v * kLanes) * scaling;
  for (int64_t t = 0; t < keys.count; t += kKeys) {
    Floats sums[kHeads][kKeys];
    for (int k = 0; k < kKeys; ++k) {
      const float* key = keys.at(std::min(t + k, keys.count - 1));
      keys.fetch_at<kDim>(t + k + kKeysAhead);
      values.fetch_at<kDim>(t + k);  // for when all scores are known
      for (int h = 0; h < kHeads; ++h) sums[h][k] = q[h][0] * load(key);
#pragma GCC unroll 16
      for (int v = 1; v < kVectors; ++v)
        for (int h = 0; h < kHeads; ++h) sums[h][k] += q[h][v] * load(key + v * kLanes);
    }
    for (int h = 0; h < kHeads; ++h) {
      float four[kKeys];
      four_sums(sums[h], four);
      std::copy_n(four, std::min<int64_t>(kKeys, keys.count - t), scores.of(h) + t);
    }
  }
}

template <int kVectors, int kHeads>
void mix_heads(const Scores& weights, const float* factors, const HeadSlots& values,
               float* outputs) {
  constexpr int kDim = kVectors * kLanes;
  Floats sums[kHeads][kVectors] = {};
  for (int64_t t = 0; t < values.count; ++t) {
    const float* value = values.at(t);
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v)
      for (int h = 0; h < kHeads; ++h) sums[h][v] += weights.of(h)[t] * load(value + v * kLanes);
  }
  for (int h = 0; h < kHeads; ++h)
    for (int v = 0; v < kVectors; ++v)
      store(outputs + h * kDim + v * kLanes, sums[h][v] * factors[h]);
}

template <int kVectors, int kHeads>
void attend_heads(const float* queries, float scaling, const HeadSlots& keys,
                  const HeadSlots& values, Scores& scores, float* outputs) {
  float factors[kHeads];
  score_heads<kVectors, kHeads>(queries, scaling, keys, values, scores);
  for (int h = 0; h < kHeads; ++h) factors[h] = soften(scores.of(h), keys.count);
  mix_heads<kVectors, kHeads>(scores, factors, values, outputs);
}

// Heads of a size that is no multiple of a vector, one by one.
inline void attend_numbers(const float* query, float scaling, const HeadSlots& keys,
                           const HeadSlots& values, int dim, Scores& scores, float* output) {
  for (int64_t t = 0; t < keys.count; ++t) {
    float score = 0.0f;
    for (int i = 0; i < dim; ++i) score += query[i] * keys.at(t)[i];
    scores.of(0)[t] = score * scaling;
  }
  const float factor = soften(scores.of(0), keys.count);
  std::fill_n(output, dim, 0.0f);
  for (int64_t t = 0; t < values.count; ++t)
    for (int i = 0; i < dim; ++i) output[i] += scores.of(0)[t] * values.at(t)[i];
  for (int i = 0; i < dim; ++i) output[i] *= factor;
}

template <int kVectors>
void attend_group(int num_heads, const float* queries, float scaling, const HeadSlots& keys,
                  const HeadSlots& values, Scores& scores, float* outputs) {
  constexpr int kDim = kVectors * kLanes;
  // More than so many heads of this size do not fit into the registers.
  constexpr int kFitting = kVectors <= 4 ? kMostHeads : kVectors <= 8 ? 2 : 1;
  for (int head = 0; head < num_heads;) {
    const float* own = queries + head * kDim;
    float* out = outputs + head * kDim;
    const int left = std::min(num_heads - head, kFitting);
    if constexpr (kFitting >= 4)
      if (left == 4) attend_heads<kVectors, 4>(own, scaling, keys, values, scores, out);
    if constexpr (kFitting >= 3)
      if (left == 3) attend_heads<kVectors, 3>(own, scaling, keys, values, scores, out);
    if constexpr (kFitting >= 2)
      if (left == 2) attend_heads<kVectors, 2>(own, scaling, keys, values, scores, out);
    if (left == 1) attend_heads<kVectors, 1>(own, scaling, keys, values, scores, out);
    head += left;
  }
}

// outputs [heads, dim] = softmax(queries · keys * scaling) · values.
inline void attend(int num_heads, const float* queries, float scaling, const HeadSlots& keys,
                   const HeadSlots& values, int dim, Scores& scores, float* outputs) {
  switch (dim % kLanes ? 0 : dim / kLanes) {
#define TREEDRAFT_HEAD(VECTORS) \
  case VECTORS:                 \
    return attend_group<VECTORS>(num_heads, queries, scaling, keys, values, scores, outputs);
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
      for (int head = 0; head < num_heads; ++head)
        attend_numbers(queries + head * dim, scaling, keys, values, dim, scores,
                       outputs + head * dim);
  }
}

}  // namespace treedraft
