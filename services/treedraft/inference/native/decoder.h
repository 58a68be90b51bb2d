// One pass of a Llama-like decoder over the rows of many sessions.
//
// Per layer: norm, queries, keys and values in one product; rotation, and keys and
// values into their slots; attention of each row to the slots that it sees;
// output product; norm, gate and up in one product, SiLU; down product. Threads
// take units of a product as they come free, and meet between the steps.
//
// The result of a row is the same to the bit whatever other rows are in the pass:
// every sum runs over its own terms in their own order, keys in the order in which
// the row's text has them. So a token that was drafted and verified in a tree has
// the very logits that it would have had in a pass of its own.
#pragma once

#include <memory>
#include <vector>

#include "attention.h"
#include "decoder_weights.h"
#include "growth.h"
#include "norm.h"
#include "pass.h"
#include "thread_team.h"

namespace treedraft {

class Decoder {
 public:
  explicit Decoder(const Shape& shape) : shape_(shape), weights_(shape.num_layers) {}

  DecoderWeights& weights() { return weights_; }

  // Reads all weights once, as fast as the machine can; returns how many bytes there are.
  int64_t read(int num_threads) {
    gather(num_threads);
    std::atomic<int64_t> num_bytes{0};
    team_->run([&](int thread) {
      const int64_t own = weights_.read(thread, num_threads);
      if (thread == 0) num_bytes = own;
    });
    return num_bytes;
  }

  void forward(const Pass& pass) {
    gather(static_cast<int>(pass.num_threads));
    begin(pass);
    team_->run([&](int thread) { run_thread(pass, scratch_[thread]); });
  }

  // Runs passes for as long as trees grow, without a pause between them; returns the rows
  // whose children were chosen.
  int64_t grow_trees(const GrowthOrder& order) {
    gather(static_cast<int>(order.first.num_threads));
    GrowthBoard board(order, logits_);
    begin(board.pass());
    team_->run([&](int thread) {
      Scratch& own = scratch_[thread];
      while (board.is_growing()) {
        run_thread(board.pass(), own);
        meet();
        take(counters_.back(), static_cast<int>(board.pass().num_outputs),
             [&](int output) { board.choose(output, own.chooser); });
        meet();
        if (thread == 0) {
          board.advance();
          if (board.is_growing()) begin(board.pass());
        }
        meet();
      }
    });
    return board.num_rows();
  }

 private:
  // Makes ready for a pass that all threads will run.
  void begin(const Pass& pass) {
    reserve(pass);
    for (int64_t row = 0; row < pass.num_rows; ++row)
      std::copy_n(pass.embeddings + pass.token_ids[row] * shape_.hidden, shape_.hidden,
                  &hidden_[row * shape_.hidden]);
    for (auto& counter : counters_) counter.store(0, std::memory_order_relaxed);
  }

  void gather(int num_threads) {
    if (!team_ || team_->size() != num_threads) team_ = std::make_unique<ThreadTeam>(num_threads);
    scratch_.resize(std::max(scratch_.size(), size_t(num_threads)));
  }

  int q_width() const { return shape_.num_heads * shape_.head_dim; }
  int kv_width() const { return shape_.num_kv_heads * shape_.head_dim; }

  void reserve(const Pass& pass) {
    const size_t rows = pass.num_rows;
    max_keys_ = 0;
    for (size_t r = 0; r < rows; ++r)
      max_keys_ = std::max(max_keys_, pass.key_offsets[r + 1] - pass.key_offsets[r]);
    grow(hidden_, rows * shape_.hidden);
    grow(qkv_, rows * (q_width() + 2 * kv_width()));
    grow(attended_, rows * q_width());
    grow(activated_, rows * shape_.intermediate);
    if (counters_.empty())  // of all layers, the head and the choice of children
      counters_ = std::vector<std::atomic<int>>(size_t(shape_.num_layers) * kCounters + 2);
  }

  static void grow(std::vector<float>& buffer, size_t size) {
    if (buffer.size() < size) buffer.resize(size);
  }

  static constexpr int kCounters = 6;

  // What a thread needs for itself.
  struct Scratch {
    std::vector<float> normed;
    Scores scores;
    ByteRows bytes;
    ChildChooser chooser;
  };

  void run_thread(const Pass& pass, Scratch& own) {
    const int rows = static_cast<int>(pass.num_rows), outputs = static_cast<int>(pass.num_outputs);
    grow(own.normed, size_t(std::max(rows, outputs)) * shape_.hidden);
    own.scores.reserve(max_keys_);
    for (int layer = 0; layer < shape_.num_layers; ++layer) run_layer(pass, layer, rows, own);
    norm_rows(pass.output_rows, outputs, weights_.final_norm, own.normed.data());
    product(weights_.head, own.normed.data(), shape_.hidden, outputs, own,
            counters_[counters_.size() - 2],
            [&](int row, int panel, const float* sums, const float* bias) {
              add_all(pass.logits + row * pass.logit_stride, shape_.vocab, panel, sums, bias);
            });
  }

  void run_layer(const Pass& pass, int index, int rows, Scratch& own) {
    const Layer& layer = weights_.layers[index];
    std::atomic<int>* counter = &counters_[size_t(index) * kCounters];
    const int hidden = shape_.hidden, width = q_width() + 2 * kv_width();
    norm_rows(nullptr, rows, layer.attention_norm, own.normed.data());
    product(layer.qkv, own.normed.data(), hidden, rows, own, counter[0],
            [&](int row, int panel, const float* sums, const float* bias) {
              add_all(&qkv_[size_t(row) * width], width, panel, sums, bias);
            });
    meet();
    take(counter[1], rows, [&](int row) { place_row(pass, index, row); });
    meet();
    attend_rows(pass, index, rows, counter[2], own.scores);
    meet();
    const auto add = [&](int row, int panel, const float* sums, const float* bias) {
      add_to_hidden(row, panel, sums, bias);
    };
    product(layer.out, attended_.data(), q_width(), rows, own, counter[3], add);
    meet();
    norm_rows(nullptr, rows, layer.mlp_norm, own.normed.data());
    product(layer.gate_up, own.normed.data(), hidden, rows, own, counter[4],
            [&](int row, int panel, const float* sums, const float* bias) {
              activate(row, panel, sums, bias);
            });
    meet();
    product(layer.down, activated_.data(), shape_.intermediate, rows, own, counter[5], add);
    meet();
  }

  void meet() { team_->barrier.arrive_and_wait(); }

  // Calls `work` with each number below `count`, over all threads: neighbours together at
  // first, which memory likes, and one by one in the end, so that none waits long for another.
  template <class Work>
  void take(std::atomic<int>& counter, int count, Work work) {
    for (int first = counter.load(std::memory_order_relaxed); first < count;) {
      const int some = std::max(1, (count - first) / (3 * team_->size()));
      if (!counter.compare_exchange_weak(first, first + some, std::memory_order_relaxed)) continue;
      for (int i = first; i < first + some; ++i) work(i);
      first = counter.load(std::memory_order_relaxed);
    }
  }

  // Hands the sums of all panels to `finish`(row, panel, sums, bias).
  template <class Finish>
  void product(const Linear& linear, const float* inputs, int stride, int rows, Scratch& own,
               std::atomic<int>& counter, Finish finish) {
    linear.prepare(inputs, stride, rows, own.bytes);
    take(counter, linear.num_panels(), [&](int panel) {
      alignas(64) float sums[kMostRows * kPanel];
      for (int first = 0; first < rows; first += kMostRows) {
        const int count = std::min(kMostRows, rows - first);
        linear.multiply(panel, inputs, stride, own.bytes, first, count, sums);
        for (int row = 0; row < count; ++row)
          finish(first + row, panel, sums + row * kPanel, linear.bias(panel));
      }
    });
  }

  // Norms chosen rows, or the first ones.
  void norm_rows(const int64_t* chosen, int count, const std::vector<float>& weights,
                 float* normed) const {
    const int hidden = shape_.hidden;
    for (int i = 0; i < count; ++i)
      norm(&hidden_[size_t(chosen ? chosen[i] : i) * hidden], weights.data(), hidden,
           shape_.epsilon, normed + size_t(i) * hidden);
  }

  // Rotates the row's queries and keys (RoPE) and stores its keys and values.
  void place_row(const Pass& pass, int layer, int row) {
    const int dim = shape_.head_dim, half = dim / 2;
    const float* cos = pass.cos + pass.positions[row] * dim;
    const float* sin = pass.sin + pass.positions[row] * dim;
    float* qkv = &qkv_[size_t(row) * (q_width() + 2 * kv_width())];
    for (int head = 0; head < shape_.num_heads + shape_.num_kv_heads; ++head) {
      float* x = qkv + head * dim;
      for (int i = 0; i < half; ++i) {
        const float a = x[i], b = x[i + half];
        x[i] = a * cos[i] - b * sin[i];
        x[i + half] = b * cos[i + half] + a * sin[i + half];
      }
    }
    const size_t at = size_t(layer) * pass.layer_stride + pass.write_slots[row] * kv_width();
    std::copy_n(qkv + q_width(), kv_width(), pass.keys + at);
    std::copy_n(qkv + q_width() + kv_width(), kv_width(), pass.values + at);
  }

  // Attention of all rows; heads that share keys together, unless there are few rows.
  void attend_rows(const Pass& pass, int layer, int rows, std::atomic<int>& counter,
                   Scores& scores) {
    const int group = shape_.num_heads / shape_.num_kv_heads;
    const bool is_split = rows * shape_.num_kv_heads < 4 * team_->size();
    const int heads = is_split ? 1 : group, tasks = shape_.num_heads / heads;
    take(counter, rows * tasks, [&](int task) {
      attend_heads(pass, layer, task / tasks, task % tasks * heads, heads, scores);
    });
  }

  void attend_heads(const Pass& pass, int layer, int row, int head, int count, Scores& scores) {
    const int dim = shape_.head_dim, group = shape_.num_heads / shape_.num_kv_heads;
    const int64_t* slots = pass.key_slots + pass.key_offsets[row];
    const int64_t num_keys = pass.key_offsets[row + 1] - pass.key_offsets[row];
    const size_t base = size_t(layer) * pass.layer_stride + size_t(head / group) * dim;
    const float* queries = &qkv_[size_t(row) * (q_width() + 2 * kv_width())] + head * dim;
    attend(count, queries, shape_.scaling, {pass.keys + base, kv_width(), slots, num_keys},
           {pass.values + base, kv_width(), slots, num_keys}, dim, scores,
           &attended_[size_t(row) * q_width()] + head * dim);
  }

  // A panel of the results of a row of `width` numbers.
  static void add_all(float* row, int width, int panel, const float* sums, const float* bias) {
    const int first = panel * kPanel;
    for (int i = 0; i < std::min(kPanel, width - first); ++i) row[first + i] = sums[i] + bias[i];
  }

  void add_to_hidden(int row, int panel, const float* sums, const float* bias) {
    const int first = panel * kPanel;
    float* out = &hidden_[size_t(row) * shape_.hidden];
    for (int i = 0; i < std::min(kPanel, shape_.hidden - first); ++i)
      out[first + i] += sums[i] + bias[i];
  }

  // SiLU of the gates, times the ups.
  void activate(int row, int panel, const float* sums, const float* bias) {
    const Floats gate = load(sums) + load(bias), up = load(sums + kLanes) + load(bias + kLanes);
    alignas(64) float activated[kLanes];
    store(activated, gate / (1.0f + quick_exp(-gate)) * up);
    const int first = panel * kLanes;
    std::copy_n(activated, std::min(kLanes, shape_.intermediate - first),
                &activated_[size_t(row) * shape_.intermediate + first]);
  }

  const Shape shape_;
  DecoderWeights weights_;
  std::unique_ptr<ThreadTeam> team_;
  std::vector<float> hidden_, qkv_, attended_, activated_, logits_;
  std::vector<Scratch> scratch_;
  std::vector<std::atomic<int>> counters_;
  int64_t max_keys_ = 0;
};

}  // namespace treedraft
