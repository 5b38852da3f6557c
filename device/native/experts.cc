#include "experts.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "few_rows.h"
#include "gelu.h"
#include "weight_pages.h"
#include "worker_pool.h"

namespace edge_mtp {
namespace {

// Bytes of weights that a thread takes at once: few turns for the pool, and enough of them for all threads.
constexpr int64_t kPartBytes = 1 << 16;
constexpr int32_t kSmallestPart = 32;  // rows of a weight: runs shorter than a page hinder a machine that reads ahead
constexpr size_t kLine = 64;

size_t product(int32_t a, int32_t b) { return static_cast<size_t>(a) * static_cast<size_t>(b); }

void will_read_rows(const Matrix& weight, int64_t first, int32_t count) {
  const auto* const data = static_cast<const uint8_t*>(weight.data);
  will_read(data + first * weight.row_bytes(), static_cast<size_t>(count * weight.row_bytes()));
}

// A row's use of an expert.
struct Use {
  int32_t row, place;  // place: in call.chosen
};

// The uses of one expert: uses[begin] .. uses[end - 1], in the order of rows.
struct Used {
  int32_t expert, begin, end;
};

// Keeps its memory for the next call.
class Mixture {
 public:
  void run(const Experts& call, WorkerPool* pool) {
    call_ = call;
    pool_ = pool;
    group();
    for (const Used& used : used_) {
      will_read_rows(call_.gate_up, gate_row(used.expert), 2 * call_.inner);
      will_read_rows(call_.down, down_row(used.expert), call_.hidden);
    }
    round_rows();
    const auto experts = static_cast<int32_t>(used_.size());
    const int32_t units = part_rows(call_.gate_up, 2), parts = (call_.inner + units - 1) / units;
    each(experts * parts, [&](int32_t index) {
      const int32_t first = index % parts * units;
      activate(used_[static_cast<size_t>(index / parts)], first, std::min(call_.inner, first + units));
    });
    each_few(static_cast<int32_t>(uses_.size()), [&](int32_t use) { round_state(use); });
    const int32_t rows = part_rows(call_.down, std::max(1, experts));
    each((call_.hidden + rows - 1) / rows, [&](int32_t index) {
      mix(index * rows, std::min(call_.hidden, (index + 1) * rows));
    });
  }

 private:
  // Where an expert's matrices begin.
  int64_t gate_row(int32_t expert) const { return static_cast<int64_t>(expert) * 2 * call_.inner; }
  int64_t down_row(int32_t expert) const { return static_cast<int64_t>(expert) * call_.hidden; }

  // Rows of `weight` in a part that reads as many of each of `matrices`.
  static int32_t part_rows(const Matrix& weight, int32_t matrices) {
    const auto rows = static_cast<int32_t>(kPartBytes / (weight.row_bytes() * matrices));
    return std::max(kSmallestPart, rows / kWeightTile * kWeightTile);
  }

  template <typename Part>
  void each(int32_t count, const Part& part) {
    if (pool_ != nullptr && pool_->workers() > 1 && count > 1) return pool_->run(count, part);
    for (int32_t index = 0; index < count; ++index) part(index);
  }

  // For parts of some microseconds: shared only where there are many.
  template <typename Part>
  void each_few(int32_t count, const Part& part) {
    constexpr int32_t kTogether = 16;
    if (count < 4 * kTogether) {
      for (int32_t index = 0; index < count; ++index) part(index);
      return;
    }
    each((count + kTogether - 1) / kTogether, [&](int32_t index) {
      for (int32_t i = index * kTogether; i < std::min(count, (index + 1) * kTogether); ++i) part(i);
    });
  }

  // Sorts the uses by expert. A use of an expert that there is not is left out, and spoils its row.
  void group() {
    const auto experts = static_cast<size_t>(call_.experts);
    const auto places = static_cast<int32_t>(product(call_.count, call_.choices));
    begins_.assign(experts + 1, 0);
    spoilt_.assign(static_cast<size_t>(call_.count), false);
    const auto exists = [&](int32_t place) { return call_.chosen[place] >= 0 && call_.chosen[place] < call_.experts; };
    for (int32_t place = 0; place < places; ++place) {
      if (exists(place)) ++begins_[static_cast<size_t>(call_.chosen[place]) + 1];
      else spoilt_[static_cast<size_t>(place / call_.choices)] = true;
    }
    used_.clear();
    for (size_t expert = 0; expert < experts; ++expert) {
      const int32_t begin = begins_[expert], count = begins_[expert + 1];
      begins_[expert + 1] = begin + count;
      if (count > 0) used_.push_back({static_cast<int32_t>(expert), begin, begin + count});
    }
    uses_.resize(static_cast<size_t>(begins_[experts]));
    for (int32_t place = 0; place < places; ++place) {
      if (!exists(place)) continue;
      uses_[static_cast<size_t>(begins_[static_cast<size_t>(call_.chosen[place])]++)] = {place / call_.choices, place};
    }
  }

  // Makes the rows ready to be multiplied, and room for what comes of them.
  void round_rows() {
    const size_t row_bytes = rounded_bytes(call_.gate_up), state_bytes = rounded_bytes(call_.down);
    const size_t count = static_cast<size_t>(call_.count), uses = uses_.size();
    inputs_.resize(count);
    states_.resize(uses);
    floats_.resize(uses * static_cast<size_t>(call_.inner));
    memory_.resize(count * row_bytes + uses * state_bytes + kLine);
    auto* const memory = memory_.data() + (kLine - reinterpret_cast<uintptr_t>(memory_.data()) % kLine) % kLine;
    state_memory_ = memory + count * row_bytes;
    each_few(call_.count, [&](int32_t row) {
      const float* const from = call_.rows + product(row, call_.hidden);
      inputs_[static_cast<size_t>(row)] = round_row(call_.gate_up, from, memory + static_cast<size_t>(row) * row_bytes);
    });
  }

  float* state(int32_t use) { return floats_.data() + product(use, call_.inner); }

  void round_state(int32_t use) {
    auto* const memory = state_memory_ + static_cast<size_t>(use) * rounded_bytes(call_.down);
    states_[static_cast<size_t>(use)] = round_row(call_.down, state(use), memory);
  }

  // The states of units `first` to `end` of an expert, in all rows that use it.
  void activate(const Used& used, int32_t first, int32_t end) {
    static const MultiplyTile multiply = best_multiply_tile();
    const int64_t gates = gate_row(used.expert), ups = gates + call_.inner;
    Activations rows[kRowTile];
    float gate[kWeightTile][kRowTile], up[kWeightTile][kRowTile];
    for (int32_t unit = first; unit < end; unit += kWeightTile) {
      const int32_t units = std::min(kWeightTile, end - unit);
      for (int32_t use = used.begin; use < used.end; use += kRowTile) {
        const int32_t count = std::min(kRowTile, used.end - use);
        for (int32_t r = 0; r < count; ++r) {
          rows[r] = inputs_[static_cast<size_t>(uses_[static_cast<size_t>(use + r)].row)];
        }
        multiply(call_.gate_up, gates + unit, units, rows, count, gate);
        multiply(call_.gate_up, ups + unit, units, rows, count, up);
        for (int32_t r = 0; r < count; ++r) {
          float gates_of_row[std::max(kLanes, kWeightTile)] = {};
          for (int32_t u = 0; u < units; ++u) gates_of_row[u] = gate[u][r];
          for (int32_t u = 0; u < units; u += kLanes) store(gelu(load(gates_of_row + u)), gates_of_row + u);
          for (int32_t u = 0; u < units; ++u) state(use + r)[unit + u] = gates_of_row[u] * up[u][r];
        }
      }
    }
  }

  // Numbers `first` to `end` of all rows: the shares of the experts, one expert after another.
  void mix(int32_t first, int32_t end) {
    static const MultiplyTile multiply = best_multiply_tile();
    for (int32_t row = 0; row < call_.count; ++row) {
      const float begin = spoilt_[static_cast<size_t>(row)] ? NAN : 0.0f;
      std::fill(call_.out + product(row, call_.hidden) + first, call_.out + product(row, call_.hidden) + end, begin);
    }
    float answer[kWeightTile][kRowTile];
    for (const Used& used : used_) {
      const int64_t matrix = down_row(used.expert);
      for (int32_t at = first; at < end; at += kWeightTile) {
        const int32_t numbers = std::min(kWeightTile, end - at);
        for (int32_t use = used.begin; use < used.end; use += kRowTile) {
          const int32_t count = std::min(kRowTile, used.end - use);
          multiply(call_.down, matrix + at, numbers, states_.data() + use, count, answer);
          for (int32_t r = 0; r < count; ++r) {
            const Use& of = uses_[static_cast<size_t>(use + r)];
            float* const out = call_.out + product(of.row, call_.hidden) + at;
            for (int32_t i = 0; i < numbers; ++i) out[i] += call_.shares[of.place] * answer[i][r];
          }
        }
      }
    }
  }

  Experts call_{};
  WorkerPool* pool_ = nullptr;
  std::vector<int32_t> begins_;
  std::vector<bool> spoilt_;  // by row
  std::vector<Used> used_;
  std::vector<Use> uses_;
  std::vector<Activations> inputs_, states_;
  std::vector<float> floats_;
  std::vector<uint8_t> memory_;
  uint8_t* state_memory_ = nullptr;
};

}  // namespace

void mix_experts(const Experts& call, WorkerPool* pool) {
  thread_local Mixture mixture;
  mixture.run(call, pool);
}

}  // namespace edge_mtp
