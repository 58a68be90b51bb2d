// The children of a drafted place: the columns that the target most likely draws there.
//
// As `draft_sampler.draft_children` has it: the best of the logits, with the noise that the
// target will add (`core/noise.py`) where the law has a temperature. What is chosen decides
// how much of a draft is accepted, never what is said.
#pragma once

#include <algorithm>
#include <vector>

#include "vectors.h"

namespace treedraft {

// How the token after a place is drawn.
struct Law {
  uint64_t seed;
  uint32_t choice;
  float temperature;  // 0: no noise
};

// Which columns of a head there are, and what is made of their scores.
struct Choice {
  int64_t num_columns;
  const int64_t* column_ids;  // tokens of the columns; none where they are the columns
  int64_t num_children;
  float score_temperature;
};

// Philox4x32-10: one block has the uniforms, of 53 bits, of two neighbouring tokens.
inline double uniform_of(uint32_t token, uint32_t position, const Law& law) {
  uint32_t c0 = token >> 1, c1 = position, c2 = 0, c3 = law.choice;
  uint32_t k0 = static_cast<uint32_t>(law.seed), k1 = static_cast<uint32_t>(law.seed >> 32);
  for (int round = 0; round < 10; ++round, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
    const uint64_t a = uint64_t{c0} * 0xD2511F53u, b = uint64_t{c2} * 0xCD9E8D57u;
    c0 = uint32_t(b >> 32) ^ c1 ^ k0;
    c2 = uint32_t(a >> 32) ^ c3 ^ k1;
    c1 = uint32_t(b);
    c3 = uint32_t(a);
  }
  const bool is_odd = token & 1;
  const uint64_t bits = (uint64_t{is_odd ? c2 : c0} << 21) | ((is_odd ? c3 : c1) >> 11);
  return double(bits | 1) * 0x1p-53;
}

class ChildChooser {
 public:
  // Writes tokens and log-probabilities, best first; returns how many there are. The token
  // drawn will be at `position`.
  int choose(const float* logits, const Choice& choice, const Law& law, int64_t position,
             int32_t* tokens, float* gains) {
    const float divisor = law.temperature > 0.0f ? law.temperature : 1.0f;
    gather(logits, choice.num_columns, divisor);
    for (Candidate& candidate : candidates_) {
      if (choice.column_ids) candidate.token = choice.column_ids[candidate.token];
      candidate.score = candidate.logit / divisor;
      if (law.temperature > 0.0f)
        candidate.score -= std::log(-std::log(uniform_of(
            static_cast<uint32_t>(candidate.token), static_cast<uint32_t>(position), law)));
    }
    const size_t count = std::min<size_t>(choice.num_children, candidates_.size());
    std::partial_sort(candidates_.begin(), candidates_.begin() + count, candidates_.end(),
                      [](const Candidate& a, const Candidate& b) {
                        return a.score != b.score ? a.score > b.score : a.token < b.token;
                      });
    const double best = candidates_[0].score, heat = choice.score_temperature;
    double total = 0.0;
    for (const Candidate& c : candidates_) total += std::exp(float((c.score - best) / heat));
    for (size_t i = 0; i < count; ++i) {
      tokens[i] = static_cast<int32_t>(candidates_[i].token);
      const double gain = (candidates_[i].score - best) / heat - std::log(total);
      gains[i] = std::min(0.0f, static_cast<float>(gain));
    }
    return static_cast<int>(count);
  }

 private:
  // As in `draft_sampler.py`.
  static constexpr size_t kMostCandidates = 1024;
  static constexpr float kDepth = 9.0f;

  struct Candidate {
    int64_t token;
    float logit;
    double score;
  };

  // The columns that may be chosen: all of a small head, of others the likely ones.
  void gather(const float* logits, int64_t count, float divisor) {
    candidates_.clear();
    const bool is_small = count <= int64_t(kMostCandidates);
    const float least = is_small ? -INFINITY : peak(logits, count) - kDepth * divisor;
    for (int64_t i = 0; i < count; ++i)
      if (logits[i] >= least) candidates_.push_back({i, logits[i], 0.0});
    if (candidates_.size() <= kMostCandidates) return;
    std::nth_element(candidates_.begin(), candidates_.begin() + kMostCandidates, candidates_.end(),
                     [](const Candidate& a, const Candidate& b) { return a.logit > b.logit; });
    candidates_.resize(kMostCandidates);
  }

  static float peak(const float* logits, int64_t count) {
    Floats most = load(logits);
    int64_t i = kLanes;
    for (; i + kLanes <= count; i += kLanes) most = larger(most, load(logits + i));
    float result = largest(most);
    for (; i < count; ++i) result = std::max(result, logits[i]);
    return result;
  }

  std::vector<Candidate> candidates_;
};

}  // namespace treedraft
