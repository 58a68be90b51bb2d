// Linear layers over few rows, limited by reading their weights once.
//
// The weights of 2 * kPanel outputs lie together, input after input, so that a
// thread reads memory in order and keeps the sums of up to kMaxRows rows in
// registers. Every row adds up its products in the order of the inputs, however
// many rows there are: the result of a row does not depend on the others.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

#include <sys/mman.h>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace treedraft {

#if defined(__AVX512F__)
constexpr int kLanes = 16, kMaxRows = 12;
#else
constexpr int kLanes = 8, kMaxRows = 6;
#endif
constexpr int kPanel = 2 * kLanes;  // outputs whose sums are kept together
constexpr int kUnit = 2 * kPanel;   // outputs of one piece of work
constexpr int kGroup = 32;          // inputs that share a scale, in int8

typedef float Floats __attribute__((vector_size(4 * kLanes)));
typedef uint32_t Words __attribute__((vector_size(4 * kLanes)));
typedef int32_t Ints __attribute__((vector_size(4 * kLanes)));
typedef uint16_t Halves __attribute__((vector_size(2 * kLanes)));
typedef int8_t Bytes __attribute__((vector_size(kLanes)));

enum class Storage : int32_t { kFloat32 = 0, kBFloat16 = 1, kInt8 = 2 };

inline Floats load(const float* weights) { return *reinterpret_cast<const Floats*>(weights); }

inline Floats load(const uint16_t* weights) {
  const Halves halves = *reinterpret_cast<const Halves*>(weights);
  return reinterpret_cast<Floats>(__builtin_convertvector(halves, Words) << 16);
}

inline Floats load(const int8_t* weights) {
#if defined(__AVX512F__)
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(weights));
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes));
#elif defined(__AVX2__)
  const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(weights));
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
#else
  const Bytes bytes = *reinterpret_cast<const Bytes*>(weights);
  return __builtin_convertvector(__builtin_convertvector(bytes, Ints), Floats);
#endif
}

// Memory in large pages where the system gives them: weights are read end to end.
class Buffer {
 public:
  Buffer() = default;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { std::free(data_); }

  void allocate(size_t num_bytes) {
    constexpr size_t kHuge = size_t{2} << 20;
    const size_t alignment = num_bytes >= kHuge ? kHuge : 64;
    const size_t size = (std::max<size_t>(num_bytes, 1) + alignment - 1) / alignment * alignment;
    std::free(data_);
    data_ = std::aligned_alloc(alignment, size);
    if (data_ == nullptr) std::abort();
    if (alignment == kHuge) madvise(data_, size, MADV_HUGEPAGE);
    std::memset(data_, 0, size);
  }

  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void* data_ = nullptr;
};

// A linear layer, [num_outputs, num_inputs] as torch has it, and maybe a bias.
class Linear {
 public:
  int num_inputs = 0, num_outputs = 0;

  int num_units() const { return (num_outputs + kUnit - 1) / kUnit; }

  // `order` lists which output is at which place, -1 for none; places are a multiple of kUnit.
  void pack(const float* weights, const float* bias, const std::vector<int>& order, int inputs,
            Storage storage) {
    num_inputs = inputs;
    num_outputs = static_cast<int>(order.size());
    storage_ = storage;
    num_groups_ = (inputs + kGroup - 1) / kGroup;
    const size_t count = order.size() * size_t(inputs);
    const size_t width = storage == Storage::kFloat32 ? 4 : storage == Storage::kBFloat16 ? 2 : 1;
    weights_.allocate(count * width);
    bias_.allocate(order.size() * 4);
    if (storage == Storage::kInt8) scales_.allocate(order.size() * size_t(num_groups_) * 4);
    for (size_t place = 0; place < order.size(); ++place) {
      if (order[place] < 0) continue;
      if (bias) bias_.as<float>()[place] = bias[order[place]];
      pack_output(place, weights + size_t(order[place]) * inputs);
    }
  }

  const float* bias(int unit) const { return bias_.as<float>() + size_t(unit) * kUnit; }

  // Computes one unit for rows [first, first + count) without the bias.
  // inputs: [rows, stride]; outputs: [count, kUnit], count <= kMaxRows.
  void multiply(int unit, const float* inputs, int stride, int count, float* outputs) const {
    switch (storage_) {
      case Storage::kFloat32: return choose<float>(unit, inputs, stride, count, outputs);
      case Storage::kBFloat16: return choose<uint16_t>(unit, inputs, stride, count, outputs);
      case Storage::kInt8: return choose<int8_t>(unit, inputs, stride, count, outputs);
    }
  }

 private:
  size_t offset(size_t place) const {  // of the weight of input 0
    return place / kPanel * kPanel * size_t(num_inputs) + place % kPanel;
  }

  void pack_output(size_t place, const float* row) {
    const size_t first = offset(place);
    for (int group = 0; group < num_groups_; ++group) {
      const int begin = group * kGroup, end = std::min(num_inputs, begin + kGroup);
      float largest = 0.0f;
      for (int i = begin; i < end; ++i) largest = std::max(largest, std::fabs(row[i]));
      const float scale = largest / 127.0f;
      if (storage_ == Storage::kInt8)
        scales_.as<float>()[(place / kPanel * num_groups_ + group) * kPanel + place % kPanel] =
            scale;
      for (int i = begin; i < end; ++i) store(first + size_t(i) * kPanel, row[i], scale);
    }
  }

  void store(size_t at, float weight, float scale) {
    if (storage_ == Storage::kFloat32) {
      weights_.as<float>()[at] = weight;
    } else if (storage_ == Storage::kBFloat16) {
      uint32_t word;
      std::memcpy(&word, &weight, 4);
      word += 0x7fff + ((word >> 16) & 1);  // to nearest, ties to even
      weights_.as<uint16_t>()[at] = static_cast<uint16_t>(word >> 16);
    } else {
      weights_.as<int8_t>()[at] =
          scale == 0.0f ? 0 : static_cast<int8_t>(std::lrintf(weight / scale));
    }
  }

  template <class T>
  void choose(int unit, const float* inputs, int stride, int count, float* outputs) const {
    // Few rows leave registers for both panels at once: more sums under way hide the latency.
    switch (count) {
#define TREEDRAFT_BOTH(R) \
  case R: return tile<T, R, 2>(unit, 0, inputs, stride, outputs);
#define TREEDRAFT_EACH(R)                            \
  case R:                                            \
    tile<T, R, 1>(unit, 0, inputs, stride, outputs); \
    return tile<T, R, 1>(unit, 1, inputs, stride, outputs + kPanel);
      TREEDRAFT_BOTH(1)
      TREEDRAFT_BOTH(2)
      TREEDRAFT_BOTH(3)
#if defined(__AVX512F__)
      TREEDRAFT_BOTH(4)
      TREEDRAFT_BOTH(5)
      TREEDRAFT_BOTH(6)
      TREEDRAFT_EACH(7)
      TREEDRAFT_EACH(8)
      TREEDRAFT_EACH(9)
      TREEDRAFT_EACH(10)
      TREEDRAFT_EACH(11)
      TREEDRAFT_EACH(12)
#else
      TREEDRAFT_EACH(4)
      TREEDRAFT_EACH(5)
      TREEDRAFT_EACH(6)
#endif
#undef TREEDRAFT_BOTH
#undef TREEDRAFT_EACH
    }
  }

  template <class T, int kRows, int kPanels>
  void tile(int unit, int panel, const float* inputs, int stride, float* outputs) const {
    constexpr int kVectors = 2 * kPanels;
    const size_t place = size_t(unit) * kUnit + size_t(panel) * kPanel;
    const size_t panel_size = size_t(num_inputs) * kPanel;
    const T* weights = weights_.as<T>() + offset(place);
    const float* scales = scales_.as<float>() + place * num_groups_;
    Floats sums[kRows][kVectors] = {};
    for (int group = 0; group < num_groups_; ++group) {
      const int begin = group * kGroup, end = std::min(num_inputs, begin + kGroup);
      Floats scale[kVectors];
      if constexpr (sizeof(T) == 1)
        for (int v = 0; v < kVectors; ++v)
          scale[v] = load(scales + (size_t(v / 2) * num_groups_ + group) * kPanel + v % 2 * kLanes);
      for (int i = begin; i < end; ++i) {
        Floats column[kVectors];
        for (int v = 0; v < kVectors; ++v) {
          column[v] = load(weights + v / 2 * panel_size + size_t(i) * kPanel + v % 2 * kLanes);
          if constexpr (sizeof(T) == 1) column[v] *= scale[v];
        }
#pragma GCC unroll 12
        for (int r = 0; r < kRows; ++r) {
          const float input = inputs[size_t(r) * stride + i];
#pragma GCC unroll 4
          for (int v = 0; v < kVectors; ++v) sums[r][v] += column[v] * input;
        }
      }
    }
    for (int r = 0; r < kRows; ++r)
      for (int v = 0; v < kVectors; ++v)
        std::memcpy(outputs + r * kUnit + v * kLanes, &sums[r][v], sizeof(Floats));
  }

  Storage storage_ = Storage::kFloat32;
  int num_groups_ = 0;
  Buffer weights_, bias_, scales_;
};

}  // namespace treedraft
