// Trees that grow by several levels in one call: which rows the next pass has.
//
// The first pass is what Python asks for. Then the children of the rows just run join
// their session's candidates, and the best of them are the rows of the next pass, as
// long as that brings more than it costs. The rule is that of `draft/growth.py` and
// `draft/thrift.py`; here it is asked between two passes without leaving the threads.
#pragma once

#include <chrono>
#include <vector>

#include "children.h"
#include "pass.h"

namespace treedraft {

// What the model's word is worth: the log-odds of a child, stretched and shifted.
struct Belief {
  double bias, weight;

  // The log-probability of a child that the model gives `gain`; as `draft/calibration.py`.
  float believed(float gain) const {
    const double claim = std::clamp(std::exp(double(gain)), 1e-6, 1.0 - 1e-4);
    const double odds = bias + weight * std::log(claim / (1.0 - claim));
    const double chance = std::clamp(1.0 / (1.0 + std::exp(-odds)), 1e-6, 1.0 - 1e-4);
    return static_cast<float>(std::log(chance));
  }
};

// What Python hands over, as `growth.py` lays it out.
struct GrowthOrder {
  Pass first;
  Choice choice;
  int64_t num_sessions, levels, width, max_rows;
  const int64_t* barren;  // tokens after which nothing follows
  int64_t num_barren;
  const int64_t* output_sessions;  // [outputs of the first pass]
  const float* output_scores;      // likewise
  const int64_t* slots;            // [sessions, levels * width]
  const int64_t* last_positions;   // [sessions]: no row is run beyond
  const int64_t* rooms;            // [sessions]: once so many nodes were added, no row is run
  const float* min_scores;         // [sessions]
  const Law* laws;                 // [sessions]
  const Belief* beliefs;           // [sessions]
  const float* least_scores;       // [sessions]: what scores less is no node
  // Nodes that may be run later: they see the first so many slots of the first output row
  // of their session, those of their ancestors, and themselves.
  int64_t num_waiting;
  const int64_t* waiting_sessions;
  const int64_t* waiting_tokens;
  const int64_t* waiting_positions;
  const float* waiting_scores;
  const int64_t* waiting_offsets;  // [waiting + 1]
  const int64_t* waiting_slots;    // of ancestors
  const int64_t* contexts;         // [sessions]
  // A pass of n rows costs step_costs[n - 1] tokens; none where passes cost nothing.
  const double* step_costs;     // [max_rows]
  const double* profile;        // what the children of a node survive with, given it
  int64_t profile_size;
  double row_price;             // tokens that another row costs the target
  // What grew, [outputs + levels * max_rows]; parents number these rows,
  // -1 for outputs and for those that waited.
  int32_t* parents;
  int32_t* ranks;               // which child of its parent, or which that waited, a row is
  int64_t* row_slots;
  int32_t* num_children;
  int32_t* child_tokens;        // [.., choice.num_children]
  float* child_gains;           // likewise
  // What passes took, [levels + 1].
  int64_t* level_rows;
  double* level_ms;
};

class GrowthBoard {
 public:
  // `logits` are room for the logits of a pass; they last from one growth to the next.
  GrowthBoard(const GrowthOrder& order, std::vector<float>& logits)
      : order_(order), pass_(order.first), logits_(logits), open_(order.num_sessions),
        num_added_(order.num_sessions), num_used_(order.num_sessions) {
    for (int64_t output = 0; output < pass_.num_outputs; ++output) {
      const int64_t row = pass_.output_rows[output];
      const int64_t* keys = pass_.key_slots;
      order_.parents[output] = -1;
      rows_.push_back({order.output_sessions[output], pass_.positions[row],
                       order.output_scores[output],
                       {keys + pass_.key_offsets[row], keys + pass_.key_offsets[row + 1]}});
    }
    for (int32_t number = 0; number < order.num_waiting; ++number)
      open_[order.waiting_sessions[number]].push_back({order.waiting_scores[number], -1, number});
    const int64_t most = std::max(pass_.num_outputs, order.max_rows);
    logits_.resize(std::max(logits_.size(), size_t(most * pass_.logit_stride)));
    pass_.logits = logits_.data();
    started_ = Clock::now();
  }

  const Pass& pass() const { return pass_; }
  bool is_growing() const { return is_growing_; }
  int64_t num_rows() const { return static_cast<int64_t>(rows_.size()); }

  // Chooses the children of one output row of the pass just run. Safe from all threads.
  void choose(int64_t output, ChildChooser& chooser) const {
    const int64_t row = first_ + output, width = order_.choice.num_children;
    const Row& own = rows_[row];
    order_.num_children[row] = chooser.choose(
        logits_.data() + output * pass_.logit_stride, order_.choice, order_.laws[own.session],
        own.position + 1, order_.child_tokens + row * width, order_.child_gains + row * width);
  }

  // Ends a level when all its children are chosen, and lays out the next pass if there is one.
  void advance() {
    const auto now = Clock::now();
    order_.level_rows[level_] = num_rows() - first_;
    order_.level_ms[level_] = std::chrono::duration<double, std::milli>(now - started_).count();
    started_ = now;
    for (int64_t row = first_; row < num_rows(); ++row) open_children(row);
    first_ = num_rows();
    if (++level_ <= order_.levels) lay_out(best_candidates());
    is_growing_ = num_rows() > first_;
  }

 private:
  using Clock = std::chrono::steady_clock;

  struct Row {
    int64_t session, position;
    float score;
    std::vector<int64_t> keys;  // slots that it sees, itself last
  };

  struct Candidate {
    float score;
    int64_t row;   // its parent, -1 for one that waited
    int32_t rank;  // among its parent's children, or among those that waited

    bool operator<(const Candidate& other) const {  // the better first
      if (score != other.score) return score > other.score;
      return row != other.row ? row < other.row : rank < other.rank;
    }
  };

  void open_children(int64_t row) {
    const Row& own = rows_[row];
    const int64_t first = row * order_.choice.num_children;
    for (int32_t rank = 0; rank < order_.num_children[row]; ++rank) {
      const float gain = order_.beliefs[own.session].believed(order_.child_gains[first + rank]);
      const float score = own.score + gain;
      num_added_[own.session] += score >= order_.least_scores[own.session];
      const int64_t* end = order_.barren + order_.num_barren;
      const bool is_barren =
          std::find(order_.barren, end, order_.child_tokens[first + rank]) != end;
      if (!is_barren && score >= order_.min_scores[own.session] &&
          own.position < order_.last_positions[own.session])
        open_[own.session].push_back({score, row, rank});
    }
  }

  // The rows of the next pass: some of each session, the best of all, as many as are worth it.
  std::vector<Candidate> best_candidates() {
    std::vector<Candidate> best;
    for (int64_t session = 0; session < order_.num_sessions; ++session) {
      auto& open = open_[session];
      std::sort(open.begin(), open.end());
      if (num_added_[session] >= order_.rooms[session]) continue;
      best.insert(best.end(), open.begin(),
                  open.begin() + std::min<size_t>(order_.width, open.size()));
    }
    std::sort(best.begin(), best.end());
    best.resize(std::min<size_t>(best.size(), order_.max_rows));
    best.resize(num_worth_it(best));
    for (const Candidate& chosen : best) {  // the first ones of their session
      auto& open = open_[session_of(chosen)];
      open.erase(open.begin());
    }
    return best;
  }

  size_t num_worth_it(const std::vector<Candidate>& best) const {
    if (order_.step_costs == nullptr) return best.size();
    size_t count = 0;
    double gain = 0.0, most = 0.0;
    for (size_t i = 0; i < best.size(); ++i) {
      const double survival = std::exp(double(best[i].score));
      for (int64_t rank = 0; rank < order_.profile_size; ++rank)
        gain += std::max(0.0, survival * order_.profile[rank] - order_.row_price);
      const double net = gain - order_.step_costs[i];
      if (net < most) continue;
      most = net;
      count = i + 1;
    }
    return count;
  }

  int64_t session_of(const Candidate& candidate) const {
    return candidate.row < 0 ? order_.waiting_sessions[candidate.rank]
                             : rows_[candidate.row].session;
  }

  Row row_of(const Candidate& candidate) const {
    const int64_t session = session_of(candidate);
    if (candidate.row >= 0)
      return {session, rows_[candidate.row].position + 1, candidate.score,
              rows_[candidate.row].keys};
    const int64_t* first_output = std::find(
        order_.output_sessions, order_.output_sessions + order_.first.num_outputs, session);
    const auto context = rows_[first_output - order_.output_sessions].keys.begin();
    Row row{session, order_.waiting_positions[candidate.rank], candidate.score,
            {context, context + order_.contexts[session]}};
    row.keys.insert(row.keys.end(),
                    order_.waiting_slots + order_.waiting_offsets[candidate.rank],
                    order_.waiting_slots + order_.waiting_offsets[candidate.rank + 1]);
    return row;
  }

  void add_row(const Candidate& candidate) {
    const int64_t index = num_rows(), session = session_of(candidate);
    const int64_t slot =
        order_.slots[session * order_.levels * order_.width + num_used_[session]++];
    order_.parents[index] = static_cast<int32_t>(candidate.row);
    order_.ranks[index] = candidate.rank;
    order_.row_slots[index] = slot;
    rows_.push_back(row_of(candidate));
    Row& row = rows_.back();
    row.keys.push_back(slot);
    const int64_t child = candidate.row * order_.choice.num_children + candidate.rank;
    token_ids_.push_back(candidate.row < 0 ? order_.waiting_tokens[candidate.rank]
                                           : order_.child_tokens[child]);
    positions_.push_back(row.position);
    write_slots_.push_back(slot);
    output_rows_.push_back(index - first_);
    key_slots_.insert(key_slots_.end(), row.keys.begin(), row.keys.end());
    key_offsets_.push_back(static_cast<int64_t>(key_slots_.size()));
  }

  void lay_out(const std::vector<Candidate>& chosen) {
    for (auto* numbers : {&token_ids_, &positions_, &write_slots_, &output_rows_, &key_slots_})
      numbers->clear();
    key_offsets_.assign(1, 0);
    for (const Candidate& candidate : chosen) add_row(candidate);
    pass_.num_rows = pass_.num_outputs = static_cast<int64_t>(chosen.size());
    pass_.token_ids = token_ids_.data();
    pass_.positions = positions_.data();
    pass_.write_slots = write_slots_.data();
    pass_.key_offsets = key_offsets_.data();
    pass_.key_slots = key_slots_.data();
    pass_.output_rows = output_rows_.data();
  }

  const GrowthOrder& order_;
  Pass pass_;
  std::vector<float>& logits_;
  std::vector<Row> rows_;
  std::vector<std::vector<Candidate>> open_;    // by session: children that were not run
  std::vector<int64_t> num_added_, num_used_;  // by session: nodes, slots
  std::vector<int64_t> token_ids_, positions_, write_slots_, key_offsets_, key_slots_, output_rows_;
  int64_t level_ = 0, first_ = 0;
  bool is_growing_ = true;
  Clock::time_point started_;
};

}  // namespace treedraft
