// The vectors of the machine that this is compiled for, and memory to read them from.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include <sys/mman.h>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace treedraft {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#else
constexpr int kLanes = 8;
#endif
constexpr int kPanel = 2 * kLanes;  // outputs whose sums are kept together

typedef float Floats __attribute__((vector_size(4 * kLanes)));
typedef float LooseFloats __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));
typedef uint32_t Words __attribute__((vector_size(4 * kLanes)));
typedef int32_t Ints __attribute__((vector_size(4 * kLanes)));

inline Floats load(const float* numbers) {
  return *reinterpret_cast<const LooseFloats*>(numbers);
}

inline void store(float* numbers, Floats values) {
  *reinterpret_cast<LooseFloats*>(numbers) = values;
}

inline Floats all(float value) { return value - Floats{}; }

// To the nearest integer, ties to even.
inline Ints nearest(Floats values) {
#if defined(__AVX512F__)
  return reinterpret_cast<Ints>(_mm512_cvtps_epi32(reinterpret_cast<__m512>(values)));
#elif defined(__AVX2__)
  return reinterpret_cast<Ints>(_mm256_cvtps_epi32(reinterpret_cast<__m256>(values)));
#else
  Ints result;
  for (int lane = 0; lane < kLanes; ++lane)
    result[lane] = static_cast<int32_t>(std::lrintf(values[lane]));
  return result;
#endif
}

inline Floats larger(Floats a, Floats b) { return a > b ? a : b; }

// The largest lane; no sum is made, so the order is of no matter.
inline float largest(Floats values) {
  float result = values[0];
  for (int lane = 1; lane < kLanes; ++lane) result = std::max(result, values[lane]);
  return result;
}

// Halves are added to each other until one number is left: one order for every sum.
inline float sum(Floats values) {
  for (int width = kLanes / 2; width > 0; width /= 2)
    for (int lane = 0; lane < width; ++lane) values[lane] += values[lane + width];
  return values[0];
}

// exp for x <= 88: 2^n times a polynomial (Cephes), 1e-7 off. For numbers and vectors.
template <class Number, class Whole>
inline Number power_of_two_times(Number r, Whole n) {
  Number p = 1.9875691500e-4f * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const Whole bits = (n + 127) << 23;
  Number power;
  std::memcpy(&power, &bits, sizeof(power));
  return p * power;
}

inline Floats quick_exp(Floats x) {
  x = x < -87.0f ? all(-87.0f) : x;
  x = x > 88.0f ? all(88.0f) : x;
  const Ints n = nearest(x * 1.44269504088896341f);
  const Floats whole = __builtin_convertvector(n, Floats);
  return power_of_two_times(x - whole * 0.693359375f + whole * 2.12194440e-4f, n);
}

// Asks for memory that is needed soon.
inline void fetch(const char* address) { __builtin_prefetch(address, 0, 3); }

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

}  // namespace treedraft
