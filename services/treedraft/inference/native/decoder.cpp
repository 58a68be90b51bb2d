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
#include <memory>
#include <vector>

#include "attention.h"
#include "linear.h"
#include "thread_team.h"

namespace treedraft {

// As `decoder.py` lays it out.
struct Shape {
  int32_t num_layers, hidden, num_heads, num_kv_heads, head_dim, intermediate, vocab;
  float epsilon, scaling;
};

struct Pass {
  int64_t num_rows, num_outputs, num_threads;
  const float* hidden;         // [rows, hidden]
  const float* cos;            // [rows, head_dim]
  const float* sin;            // [rows, head_dim]
  const int64_t* write_slots;  // [rows]
  const int64_t* key_offsets;  // [rows + 1]
  const int64_t* key_slots;    // [key_offsets[rows]]: what each row sees, in the order of its text
  const int64_t* output_rows;  // [outputs]
  float* keys;                 // [layers, slots, kv_heads, head_dim]
  float* values;               // likewise
  int64_t layer_stride;        // numbers from one layer of keys to the next
  float* logits;               // [outputs, vocab]
};

enum Part : int32_t { kQkv = 0, kOut = 1, kGateUp = 2, kDown = 3, kHead = 4 };
enum Norm : int32_t { kAttentionNorm = 0, kMlpNorm = 1, kFinalNorm = 2 };

struct Layer {
  Linear qkv, out, gate_up, down;
  std::vector<float> attention_norm, mlp_norm;
};

class Decoder {
 public:
  explicit Decoder(const Shape& shape) : shape_(shape), layers_(shape.num_layers) {}

  void set_norm(int layer, Norm norm, const float* weights) {
    auto& target = norm == kFinalNorm        ? final_norm_
                   : norm == kAttentionNorm ? layers_[layer].attention_norm
                                            : layers_[layer].mlp_norm;
    target.assign(weights, weights + shape_.hidden);
  }

  void set_linear(int layer, Part part, const float* weights, const float* bias, int outputs,
                  int inputs, Storage storage) {
    auto order = part == kGateUp ? paired(outputs / 2) : in_turn(outputs);
    linear(layer, part).pack(weights, bias, order, inputs, storage);
  }

  void forward(const Pass& pass) {
    if (!team_ || team_->size() != pass.num_threads)
      team_ = std::make_unique<ThreadTeam>(static_cast<int>(pass.num_threads));
    reserve(pass);
    std::copy_n(pass.hidden, pass.num_rows * shape_.hidden, hidden_.data());
    for (auto& counter : counters_) counter.store(0, std::memory_order_relaxed);
    team_->run([&](int) { run_thread(pass); });
  }

 private:
  Linear& linear(int layer, Part part) {
    if (part == kHead) return head_;
    Layer& l = layers_[layer];
    return part == kQkv ? l.qkv : part == kOut ? l.out : part == kGateUp ? l.gate_up : l.down;
  }

  static std::vector<int> in_turn(int outputs) {
    std::vector<int> order((outputs + kUnit - 1) / kUnit * kUnit, -1);
    for (int i = 0; i < outputs; ++i) order[i] = i;
    return order;
  }

  // A panel of gates, then the panel of the ups that they are multiplied with.
  static std::vector<int> paired(int count) {
    std::vector<int> order((count + kPanel - 1) / kPanel * kUnit, -1);
    for (int i = 0; i < count; ++i) {
      const int place = i / kPanel * kUnit + i % kPanel;
      order[place] = i;
      order[place + kPanel] = count + i;
    }
    return order;
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
    if (counters_.empty())
      counters_ = std::vector<std::atomic<int>>(size_t(shape_.num_layers) * kCounters + 1);
  }

  static void grow(std::vector<float>& buffer, size_t size) {
    if (buffer.size() < size) buffer.resize(size);
  }

  static constexpr int kCounters = 6;

  void run_thread(const Pass& pass) {
    std::vector<float> normed(pass.num_rows * size_t(shape_.hidden));
    std::vector<float> scores(max_keys_);
    const int rows = static_cast<int>(pass.num_rows), hidden = shape_.hidden;
    const int width = q_width() + 2 * kv_width();
    for (int index = 0; index < shape_.num_layers; ++index) {
      Layer& layer = layers_[index];
      std::atomic<int>* counter = &counters_[size_t(index) * kCounters];
      norm_rows(hidden_.data(), nullptr, rows, layer.attention_norm, normed.data());
      product(layer.qkv, normed.data(), hidden, rows, counter[0],
              [&](int row, int first, const float* sums, const float* bias) {
                float* out = &qkv_[size_t(row) * width];
                for (int i = 0; i < std::min(kUnit, width - first); ++i)
                  out[first + i] = sums[i] + bias[i];
              });
      meet();
      take(counter[1], rows, 1, [&](int row) { place_row(pass, index, row); });
      meet();
      take(counter[2], rows * shape_.num_heads, 1, [&](int task) {
        attend_head(pass, index, task / shape_.num_heads, task % shape_.num_heads, scores.data());
      });
      meet();
      product(layer.out, attended_.data(), q_width(), rows, counter[3],
              [&](int row, int first, const float* sums, const float* bias) {
                add_to_hidden(row, first, sums, bias);
              });
      meet();
      norm_rows(hidden_.data(), nullptr, rows, layer.mlp_norm, normed.data());
      product(layer.gate_up, normed.data(), hidden, rows, counter[4],
              [&](int row, int first, const float* sums, const float* bias) {
                activate(row, first / 2, sums, bias);
              });
      meet();
      product(layer.down, activated_.data(), shape_.intermediate, rows, counter[5],
              [&](int row, int first, const float* sums, const float* bias) {
                add_to_hidden(row, first, sums, bias);
              });
      meet();
    }
    const int outputs = static_cast<int>(pass.num_outputs);
    normed.resize(std::max(normed.size(), size_t(outputs) * hidden));
    norm_rows(hidden_.data(), pass.output_rows, outputs, final_norm_, normed.data());
    product(head_, normed.data(), hidden, outputs, counters_.back(),
            [&](int row, int first, const float* sums, const float* bias) {
              float* out = pass.logits + size_t(row) * shape_.vocab;
              for (int i = 0; i < std::min(kUnit, shape_.vocab - first); ++i)
                out[first + i] = sums[i] + bias[i];
            });
  }

  void meet() { team_->barrier.arrive_and_wait(); }

  // Calls `work` with each number below `count`, a few at a time, over all threads.
  template <class Work>
  void take(std::atomic<int>& counter, int count, int at_once, Work work) {
    for (int first; (first = counter.fetch_add(at_once, std::memory_order_relaxed)) < count;)
      for (int i = first; i < std::min(count, first + at_once); ++i) work(i);
  }

  // Hands the sums of all units to `finish`(row, first output, sums, bias).
  template <class Finish>
  void product(const Linear& linear, const float* inputs, int stride, int rows,
               std::atomic<int>& counter, Finish finish) {
    const int num_blocks = (rows + kMaxRows - 1) / kMaxRows;
    const int units = linear.num_units();
    const int at_once = std::max(1, units / (8 * team_->size()));
    take(counter, units, at_once, [&](int unit) {
      alignas(64) float sums[kMaxRows * kUnit];
      for (int block = 0; block < num_blocks; ++block) {
        const int first = rows * block / num_blocks, end = rows * (block + 1) / num_blocks;
        linear.multiply(unit, inputs + size_t(first) * stride, stride, end - first, sums);
        for (int row = first; row < end; ++row)
          finish(row, unit * kUnit, sums + (row - first) * kUnit, linear.bias(unit));
      }
    });
  }

  // RMSNorm (Zhang and Sennrich 2019, arXiv 1910.07467) of chosen rows, or of the first ones.
  void norm_rows(const float* rows, const int64_t* chosen, int count,
                 const std::vector<float>& weights, float* normed) const {
    const int hidden = shape_.hidden;
    for (int i = 0; i < count; ++i) {
      const float* row = rows + size_t(chosen ? chosen[i] : i) * hidden;
      float square = 0.0f;
      for (int j = 0; j < hidden; ++j) square += row[j] * row[j];
      const float factor = 1.0f / std::sqrt(square / hidden + shape_.epsilon);
      for (int j = 0; j < hidden; ++j)
        normed[size_t(i) * hidden + j] = row[j] * factor * weights[j];
    }
  }

  // Rotates the row's queries and keys (RoPE) and stores its keys and values.
  void place_row(const Pass& pass, int layer, int row) {
    const int dim = shape_.head_dim, half = dim / 2;
    const float* cos = pass.cos + size_t(row) * dim;
    const float* sin = pass.sin + size_t(row) * dim;
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

  // Attention of one query head of one row.
  void attend_head(const Pass& pass, int layer, int row, int head, float* scores) {
    const int dim = shape_.head_dim, group = shape_.num_heads / shape_.num_kv_heads;
    const int64_t* slots = pass.key_slots + pass.key_offsets[row];
    const int64_t count = pass.key_offsets[row + 1] - pass.key_offsets[row];
    const size_t base = size_t(layer) * pass.layer_stride + size_t(head / group) * dim;
    const float* query = &qkv_[size_t(row) * (q_width() + 2 * kv_width())] + head * dim;
    attend(query, shape_.scaling, {pass.keys + base, kv_width(), slots, count},
           {pass.values + base, kv_width(), slots, count}, dim, scores,
           &attended_[size_t(row) * q_width()] + head * dim);
  }

  void add_to_hidden(int row, int first, const float* sums, const float* bias) {
    float* out = &hidden_[size_t(row) * shape_.hidden];
    for (int i = 0; i < std::min(kUnit, shape_.hidden - first); ++i)
      out[first + i] += sums[i] + bias[i];
  }

  // SiLU of the gates, times the ups.
  void activate(int row, int first, const float* sums, const float* bias) {
    float* out = &activated_[size_t(row) * shape_.intermediate];
    for (int i = 0; i < std::min(kPanel, shape_.intermediate - first); ++i) {
      const float gate = sums[i] + bias[i], up = sums[kPanel + i] + bias[kPanel + i];
      out[first + i] = gate / (1.0f + quick_exp(-gate)) * up;
    }
  }

  const Shape shape_;
  std::vector<Layer> layers_;
  Linear head_;
  std::vector<float> final_norm_;
  std::unique_ptr<ThreadTeam> team_;
  std::vector<float> hidden_, qkv_, attended_, activated_;
  std::vector<std::atomic<int>> counters_;
  int64_t max_keys_ = 0;
};

}  // namespace treedraft

extern "C" {

void* treedraft_decoder_new(const treedraft::Shape* shape) {
  return new treedraft::Decoder(*shape);
}

void treedraft_decoder_free(void* decoder) { delete static_cast<treedraft::Decoder*>(decoder); }

void treedraft_decoder_set_norm(void* decoder, int32_t layer, int32_t norm, const float* weights) {
  static_cast<treedraft::Decoder*>(decoder)->set_norm(
      layer, static_cast<treedraft::Norm>(norm), weights);
}

void treedraft_decoder_set_linear(void* decoder, int32_t layer, int32_t part, const float* weights,
                                  const float* bias, int32_t outputs, int32_t inputs,
                                  int32_t storage) {
  static_cast<treedraft::Decoder*>(decoder)->set_linear(
      layer, static_cast<treedraft::Part>(part), weights, bias, outputs, inputs,
      static_cast<treedraft::Storage>(storage));
}

void treedraft_decoder_forward(void* decoder, const treedraft::Pass* pass) {
  static_cast<treedraft::Decoder*>(decoder)->forward(*pass);
}

}  // extern "C"
