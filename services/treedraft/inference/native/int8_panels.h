// Products with weights and inputs in int8, summed up in integers.
//
// Groups of kGroup inputs share a scale, of each output and of each row, as llama.cpp's
// Q8_0 has it. Sums within a group are exact, and those of groups are added in their
// order, so a row's result does not depend on the others. A panel is a list of groups:
// quads of inputs of kPanel outputs, then the scales of the outputs.
#pragma once

#include <vector>

#include "vectors.h"

namespace treedraft {

constexpr int kGroup = 32;
constexpr int kQuads = kGroup / 4;
constexpr int kGroupBytes = kGroup * kPanel + 4 * kPanel;
constexpr int kPieceGroups = 8;

#if defined(__AVX512VNNI__)
constexpr int kByteRows = 6;  // rows of a block
#elif defined(__AVX2__)
constexpr int kByteRows = 3;
#else
constexpr int kByteRows = 2;
#endif

// Where an instruction multiplies unsigned by signed bytes, weights are stored with this
// added, and every sum begins with what that comes to.
#if defined(__AVX512VNNI__) || defined(__AVXVNNI__)
constexpr int kOffset = 128;
#else
constexpr int kOffset = 0;
#endif

// sums + weights · input: of each lane four weights, and of the input the same four numbers.
inline Ints add_quads(Ints sums, const uint8_t* weights, const int8_t* input) {
  int32_t quad;
  std::memcpy(&quad, input, 4);
#if defined(__AVX512VNNI__)
  return reinterpret_cast<Ints>(_mm512_dpbusd_epi32(
      reinterpret_cast<__m512i>(sums), _mm512_loadu_si512(weights), _mm512_set1_epi32(quad)));
#elif defined(__AVX2__)
  const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(weights));
  const __m256i inputs = _mm256_set1_epi32(quad);
#if defined(__AVXVNNI__)
  return reinterpret_cast<Ints>(
      _mm256_dpbusd_avx_epi32(reinterpret_cast<__m256i>(sums), bytes, inputs));
#else
  // Numbers are within ±127, so that no pair of products overflows 16 bits.
  const __m256i pairs =
      _mm256_maddubs_epi16(_mm256_abs_epi8(bytes), _mm256_sign_epi8(inputs, bytes));
  return sums + reinterpret_cast<Ints>(_mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
#endif
#else
  for (int lane = 0; lane < kLanes; ++lane)
    for (int i = 0; i < 4; ++i)
      sums[lane] += static_cast<int8_t>(weights[4 * lane + i]) * input[i];
  return sums;
#endif
}

// Rows of inputs in int8, padded to whole groups.
class ByteRows {
 public:
  void quantize(const float* rows, int stride, int num_rows, int num_inputs) {
    num_groups_ = (num_inputs + kGroup - 1) / kGroup;
    const size_t count = size_t(num_rows) * num_groups_;
    if (scales_.size() < count) {
      scales_.resize(count);
      starts_.resize(count);
      values_.resize(count * kGroup);
    }
    for (int row = 0; row < num_rows; ++row)
      for (int group = 0; group < num_groups_; ++group) {
        const float* numbers = rows + size_t(row) * stride + group * kGroup;
        quantize_group(numbers, std::min(kGroup, num_inputs - group * kGroup),
                       size_t(row) * num_groups_ + group);
      }
  }

  int num_groups() const { return num_groups_; }
  const int8_t* values(int row) const { return &values_[size_t(row) * num_groups_ * kGroup]; }
  const float* scales(int row) const { return &scales_[size_t(row) * num_groups_]; }
  const int32_t* starts(int row) const { return &starts_[size_t(row) * num_groups_]; }

 private:
  void quantize_group(const float* numbers, int count, size_t at) {
    alignas(64) float padded[kGroup] = {};
    std::memcpy(padded, numbers, sizeof(float) * count);
    Floats peak = {};
    for (int i = 0; i < kGroup; i += kLanes) {
      const Floats part = load(padded + i);
      peak = larger(peak, larger(part, -part));
    }
    const float most = largest(peak);
    const float factor = most > 1e-30f ? 127.0f / most : 0.0f;
    scales_[at] = most / 127.0f;
    Ints total = {};
    for (int i = 0; i < kGroup; i += kLanes) {
      const Ints whole = nearest(load(padded + i) * factor);
      total += whole;
      typedef int8_t Bytes __attribute__((vector_size(kLanes)));
      const Bytes bytes = __builtin_convertvector(whole, Bytes);
      std::memcpy(&values_[at * kGroup + i], &bytes, kLanes);
    }
    int32_t sum = 0;
    for (int lane = 0; lane < kLanes; ++lane) sum += total[lane];
    starts_[at] = -kOffset * sum;
  }

  int num_groups_ = 0;
  std::vector<int8_t> values_;
  std::vector<float> scales_;
  std::vector<int32_t> starts_;
};

template <int kRows>
inline void add_groups(const uint8_t* groups, int begin, int end, const ByteRows& inputs, int row,
                       float* sums, int ahead) {
  const int8_t* values[kRows];
  const float* scales[kRows];
  const int32_t* starts[kRows];
  Floats rows[kRows][2];
#pragma GCC unroll 6
  for (int r = 0; r < kRows; ++r) {
    values[r] = inputs.values(row + r);
    scales[r] = inputs.scales(row + r);
    starts[r] = inputs.starts(row + r);
    rows[r][0] = load(sums + r * kPanel);
    rows[r][1] = load(sums + r * kPanel + kLanes);
  }
  for (int group = begin; group < end; ++group) {
    const uint8_t* weights = groups + size_t(group) * kGroupBytes;
    Ints products[kRows][2];
#pragma GCC unroll 6
    for (int r = 0; r < kRows; ++r) products[r][0] = products[r][1] = Ints{} + starts[r][group];
    if (ahead)
#pragma GCC unroll 32
      for (int at = 0; at < kGroupBytes; at += 64)
        fetch(reinterpret_cast<const char*>(weights) + ahead + at);
#pragma GCC unroll 8
    for (int quad = 0; quad < kQuads; ++quad) {
      const uint8_t* first = weights + quad * 4 * kPanel;
#pragma GCC unroll 6
      for (int r = 0; r < kRows; ++r) {
        const int8_t* input = values[r] + group * kGroup + quad * 4;
        products[r][0] = add_quads(products[r][0], first, input);
        products[r][1] = add_quads(products[r][1], first + 4 * kLanes, input);
      }
    }
    const float* own = reinterpret_cast<const float*>(weights + kGroup * kPanel);
    const Floats scale[2] = {load(own), load(own + kLanes)};
#pragma GCC unroll 6
    for (int r = 0; r < kRows; ++r) {
      rows[r][0] += __builtin_convertvector(products[r][0], Floats) * (scale[0] * scales[r][group]);
      rows[r][1] += __builtin_convertvector(products[r][1], Floats) * (scale[1] * scales[r][group]);
    }
  }
#pragma GCC unroll 6
  for (int r = 0; r < kRows; ++r) {
    store(sums + r * kPanel, rows[r][0]);
    store(sums + r * kPanel + kLanes, rows[r][1]);
  }
}

inline void add_groups(int num_rows, const uint8_t* groups, int begin, int end,
                       const ByteRows& inputs, int row, float* sums, int ahead) {
  switch (num_rows) {
#define TREEDRAFT_ROWS(R) \
  case R: return add_groups<R>(groups, begin, end, inputs, row, sums, ahead);
    TREEDRAFT_ROWS(1)
    TREEDRAFT_ROWS(2)
    TREEDRAFT_ROWS(3)
    TREEDRAFT_ROWS(4)
    TREEDRAFT_ROWS(5)
    TREEDRAFT_ROWS(6)
#undef TREEDRAFT_ROWS
  }
}

// sums [num_rows, kPanel] = rows [first_row, first_row + num_rows) times one panel.
inline void multiply_byte_panel(const uint8_t* panel, const ByteRows& inputs, int first_row,
                                int num_rows, float* sums) {
  constexpr int kAhead = 4 * kGroupBytes;
  const int num_blocks = (num_rows + kByteRows - 1) / kByteRows;
  std::memset(sums, 0, sizeof(float) * num_rows * kPanel);
  for (int begin = 0; begin < inputs.num_groups(); begin += kPieceGroups) {
    const int end = std::min(begin + kPieceGroups, inputs.num_groups());
    for (int block = 0; block < num_blocks; ++block) {
      const int first = num_rows * block / num_blocks;
      const int last = num_rows * (block + 1) / num_blocks;
      add_groups(last - first, panel, begin, end, inputs, first_row + first, sums + first * kPanel,
                 block == 0 ? kAhead : block == 1 ? kPieceGroups * kGroupBytes : 0);
    }
  }
}

}  // namespace treedraft
