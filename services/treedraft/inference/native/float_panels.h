// Products with weights in float32 or bfloat16, computed in float32.
//
// A panel holds the weights of kPanel outputs, input after input. It is gone through
// in pieces that fit the innermost cache, each by blocks of rows whose sums are kept
// in registers, while the next piece is on its way: so memory is read all the time,
// however many rows there are, and each weight once. Every row adds up its products
// in the order of the inputs: its result does not depend on the others.
#pragma once

#include "vectors.h"

namespace treedraft {

#if defined(__AVX512F__)
constexpr int kFloatRows = 12;  // rows of a block: their sums fill the registers
#else
constexpr int kFloatRows = 6;
#endif
constexpr int kPieceInputs = 64;
constexpr int kFetchAhead = 8192;  // bytes

// The weights of one input.
inline void load_pair(const float* weights, Floats& first, Floats& second) {
  first = load(weights);
  second = load(weights + kLanes);
}

// Each word has a weight of the second half of the panel above one of the first.
inline void load_pair(const uint16_t* weights, Floats& first, Floats& second) {
  const Words words = *reinterpret_cast<const Words*>(weights);
  first = reinterpret_cast<Floats>(words << 16);
  second = reinterpret_cast<Floats>(words & 0xffff0000u);
}

// Where the weight of an output is among those of one input.
template <class T>
inline size_t place_in_panel(size_t column) {
  return sizeof(T) == 4 ? column : column % kLanes * 2 + column / kLanes;
}

// What is fetched while something else is computed.
struct Ahead {
  const char* next;
  int step;  // bytes for each input
};

template <class T, int kRows>
inline void add_piece(const T* weights, int count, const float* inputs, int stride, float* sums,
                      Ahead& ahead) {
  constexpr int kLines = std::max<int>(1, kPanel * sizeof(T) / 64);
  Floats rows[kRows][2];
#pragma GCC unroll 12
  for (int r = 0; r < kRows; ++r) {
    rows[r][0] = load(sums + r * kPanel);
    rows[r][1] = load(sums + r * kPanel + kLanes);
  }
  for (int i = 0; i < count; ++i) {
    Floats first, second;
    load_pair(weights + i * kPanel, first, second);
#pragma GCC unroll 2
    for (int line = 0; line < kLines; ++line) fetch(ahead.next + line * 64);
    ahead.next += ahead.step;
#pragma GCC unroll 12
    for (int r = 0; r < kRows; ++r) {
      const float input = inputs[size_t(r) * stride + i];
      rows[r][0] += first * input;
      rows[r][1] += second * input;
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < kRows; ++r) {
    store(sums + r * kPanel, rows[r][0]);
    store(sums + r * kPanel + kLanes, rows[r][1]);
  }
}

template <class T>
inline void add_piece(int num_rows, const T* weights, int count, const float* inputs, int stride,
                      float* sums, Ahead& ahead) {
  switch (num_rows) {
#define TREEDRAFT_ROWS(R) \
  case R: return add_piece<T, R>(weights, count, inputs, stride, sums, ahead);
    TREEDRAFT_ROWS(1)
    TREEDRAFT_ROWS(2)
    TREEDRAFT_ROWS(3)
    TREEDRAFT_ROWS(4)
    TREEDRAFT_ROWS(5)
    TREEDRAFT_ROWS(6)
#if defined(__AVX512F__)
    TREEDRAFT_ROWS(7)
    TREEDRAFT_ROWS(8)
    TREEDRAFT_ROWS(9)
    TREEDRAFT_ROWS(10)
    TREEDRAFT_ROWS(11)
    TREEDRAFT_ROWS(12)
#endif
#undef TREEDRAFT_ROWS
  }
}

// sums [num_rows, kPanel] = inputs [num_rows, stride] times one panel.
template <class T>
void multiply_panel(const T* panel, int num_inputs, const float* inputs, int stride, int num_rows,
                    float* sums) {
  const int num_blocks = (num_rows + kFloatRows - 1) / kFloatRows;
  std::memset(sums, 0, sizeof(float) * num_rows * kPanel);
  Ahead ahead{reinterpret_cast<const char*>(panel) + kFetchAhead,
              int(kPanel * sizeof(T)) / num_blocks};
  for (int begin = 0; begin < num_inputs; begin += kPieceInputs) {
    const int count = std::min(kPieceInputs, num_inputs - begin);
    for (int block = 0; block < num_blocks; ++block) {
      const int first = num_rows * block / num_blocks;
      const int end = num_rows * (block + 1) / num_blocks;
      add_piece(end - first, panel + size_t(begin) * kPanel, count,
                inputs + size_t(first) * stride + begin, stride, sums + first * kPanel, ahead);
    }
  }
}

}  // namespace treedraft
