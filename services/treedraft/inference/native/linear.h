// Linear layers over few rows, limited by reading their weights once.
//
// The weights of kPanel outputs lie together, as `float_panels.h` and `int8_panels.h`
// want them. The result of a row does not depend on the others.
#pragma once

#include <vector>

#include "float_panels.h"
#include "int8_panels.h"

namespace treedraft {

constexpr int kMostRows = 48;  // of one product; what a panel is multiplied with at a time

enum class Storage : int32_t { kFloat32 = 0, kBFloat16 = 1, kInt8 = 2 };

inline uint16_t to_bfloat(float number) {
  uint32_t word;
  std::memcpy(&word, &number, 4);
  word += 0x7fff + ((word >> 16) & 1);  // to nearest, ties to even
  return static_cast<uint16_t>(word >> 16);
}

// A linear layer, [num_outputs, num_inputs] as torch has it, and maybe a bias.
class Linear {
 public:
  int num_panels() const { return num_panels_; }

  // `order` lists which output is at which place, -1 for none; places are a multiple of kPanel.
  void pack(const float* weights, const float* bias, const std::vector<int>& order, int inputs,
            Storage storage) {
    num_inputs_ = inputs;
    num_panels_ = static_cast<int>(order.size()) / kPanel;
    storage_ = storage;
    const size_t groups = (inputs + kGroup - 1) / kGroup;
    panel_bytes_ = storage == Storage::kFloat32    ? size_t(inputs) * kPanel * 4
                   : storage == Storage::kBFloat16 ? size_t(inputs) * kPanel * 2
                                                   : groups * kGroupBytes;
    weights_.allocate(num_panels_ * panel_bytes_);
    bias_.allocate(order.size() * 4);
    for (size_t place = 0; place < order.size(); ++place) {
      if (order[place] < 0) continue;
      if (bias) bias_.as<float>()[place] = bias[order[place]];
      pack_output(place, weights + size_t(order[place]) * inputs);
    }
  }

  // Reads one thread's share of the weights and does nothing with them; returns the bytes.
  int64_t read(int thread, int num_threads) const {
    const size_t size = num_panels_ * panel_bytes_ / 64;
    const float* numbers = weights_.as<float>();
    Floats sums = {};
    for (size_t line = size * thread / num_threads; line < size * (thread + 1) / num_threads; ++line)
      for (int at = 0; at < 16; at += kLanes) sums += load(numbers + line * 16 + at);
    asm volatile("" ::"m"(sums));
    return size * 64;
  }

  const float* bias(int panel) const { return bias_.as<float>() + size_t(panel) * kPanel; }

  // To be called with all rows before `multiply` is, once for each thread.
  void prepare(const float* inputs, int stride, int num_rows, ByteRows& bytes) const {
    if (storage_ == Storage::kInt8) bytes.quantize(inputs, stride, num_rows, num_inputs_);
  }

  // Computes one panel for rows [first, first + count), count <= kMostRows, without the bias.
  // sums: [count, kPanel].
  void multiply(int panel, const float* inputs, int stride, const ByteRows& bytes, int first,
                int count, float* sums) const {
    const uint8_t* own = weights_.as<uint8_t>() + panel * panel_bytes_;
    const float* rows = inputs + size_t(first) * stride;
    if (storage_ == Storage::kFloat32)
      multiply_panel(reinterpret_cast<const float*>(own), num_inputs_, rows, stride, count, sums);
    else if (storage_ == Storage::kBFloat16)
      multiply_panel(reinterpret_cast<const uint16_t*>(own), num_inputs_, rows, stride, count,
                     sums);
    else
      multiply_byte_panel(own, bytes, first, count, sums);
  }

 private:
  void pack_output(size_t place, const float* row) {
    uint8_t* panel = weights_.as<uint8_t>() + place / kPanel * panel_bytes_;
    const size_t column = place % kPanel;
    if (storage_ == Storage::kInt8) return pack_bytes(panel, column, row);
    for (int i = 0; i < num_inputs_; ++i, panel += panel_bytes_ / num_inputs_) {
      if (storage_ == Storage::kFloat32)
        reinterpret_cast<float*>(panel)[place_in_panel<float>(column)] = row[i];
      else
        reinterpret_cast<uint16_t*>(panel)[place_in_panel<uint16_t>(column)] = to_bfloat(row[i]);
    }
  }

  void pack_bytes(uint8_t* panel, size_t column, const float* row) const {
    for (int begin = 0; begin < num_inputs_; begin += kGroup, panel += kGroupBytes) {
      const int end = std::min(num_inputs_, begin + kGroup);
      float most = 0.0f;
      for (int i = begin; i < end; ++i) most = std::max(most, std::fabs(row[i]));
      const float scale = most / 127.0f;
      reinterpret_cast<float*>(panel + kGroup * kPanel)[column] = scale;
      for (int i = begin; i < begin + kGroup; ++i) {
        const bool is_zero = i >= end || scale == 0.0f;
        const int whole = is_zero ? 0 : static_cast<int>(std::lrintf(row[i] / scale));
        const size_t quad = (i - begin) / 4;
        panel[(quad * kPanel + column) * 4 + (i - begin) % 4] =
            static_cast<uint8_t>(whole + kOffset);
      }
    }
  }

  Storage storage_ = Storage::kFloat32;
  int num_inputs_ = 0, num_panels_ = 0;
  size_t panel_bytes_ = 0;
  Buffer weights_, bias_;
};

}  // namespace treedraft
