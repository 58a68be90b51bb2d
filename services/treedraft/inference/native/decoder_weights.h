// The weights of a decoder, layer by layer.
#pragma once

#include <vector>

#include "linear.h"

namespace treedraft {

enum Part : int32_t { kQkv = 0, kOut = 1, kGateUp = 2, kDown = 3, kHead = 4 };
enum Norm : int32_t { kAttentionNorm = 0, kMlpNorm = 1, kFinalNorm = 2 };

struct Layer {
  Linear qkv, out, gate_up, down;
  std::vector<float> attention_norm, mlp_norm;
};

class DecoderWeights {
 public:
  explicit DecoderWeights(int num_layers) : layers(num_layers) {}

  void set_norm(int layer, Norm norm, const float* weights, int hidden) {
    auto& target = norm == kFinalNorm        ? final_norm
                   : norm == kAttentionNorm ? layers[layer].attention_norm
                                            : layers[layer].mlp_norm;
    target.assign(weights, weights + hidden);
  }

  void set_linear(int layer, Part part, const float* weights, const float* bias, int outputs,
                  int inputs, Storage storage) {
    const auto order = part == kGateUp ? paired(outputs / 2) : in_turn(outputs);
    linear(layer, part).pack(weights, bias, order, inputs, storage);
  }

  // Reads one thread's share of all weights; returns how many bytes all are.
  int64_t read(int thread, int num_threads) const {
    int64_t num_bytes = head.read(thread, num_threads);
    for (const Layer& layer : layers)
      for (const Linear* linear : {&layer.qkv, &layer.out, &layer.gate_up, &layer.down})
        num_bytes += linear->read(thread, num_threads);
    return num_bytes;
  }

  std::vector<Layer> layers;
  Linear head;
  std::vector<float> final_norm;

 private:
  Linear& linear(int layer, Part part) {
    if (part == kHead) return head;
    Layer& l = layers[layer];
    return part == kQkv ? l.qkv : part == kOut ? l.out : part == kGateUp ? l.gate_up : l.down;
  }

  static std::vector<int> in_turn(int outputs) {
    std::vector<int> order((outputs + kPanel - 1) / kPanel * kPanel, -1);
    for (int i = 0; i < outputs; ++i) order[i] = i;
    return order;
  }

  // In each panel a vector of gates, then the ups that they are multiplied with.
  static std::vector<int> paired(int count) {
    std::vector<int> order((count + kLanes - 1) / kLanes * kPanel, -1);
    for (int i = 0; i < count; ++i) {
      const int place = i / kLanes * kPanel + i % kLanes;
      order[place] = i;
      order[place + kLanes] = count + i;
    }
    return order;
  }
};

}  // namespace treedraft
