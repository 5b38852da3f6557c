// The kernel of experts on buffers of exactly the contract's sizes, so that a sanitizer sees a read or write past them,
// against the plainest possible mixture. Values are checked at length in tests/oracle/test_experts.py.
#include "../experts.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "../worker_pool.h"

namespace {

using edge_mtp::Experts;
using edge_mtp::Stored;
using edge_mtp::Weight;
using edge_mtp::WorkerPool;

std::mt19937 random_numbers(1);

int32_t between(int32_t least, int32_t most) {
  return std::uniform_int_distribution<int32_t>(least, most)(random_numbers);
}

float drawn() { return static_cast<float>(between(-1000, 1000)) / 1000; }

// A random matrix as it is stored, and the numbers that it stands for.
struct Matrix {
  Matrix(int32_t rows, int32_t columns, Stored stored, int32_t block) {
    const auto size = static_cast<size_t>(rows) * static_cast<size_t>(columns);
    numbers.resize(size);
    weight = {nullptr, nullptr, stored, columns, block};
    data.resize(weight.row_bytes() * static_cast<size_t>(rows));
    const auto run = static_cast<size_t>(block > 0 ? block : columns);
    for (size_t i = 0; i < size; ++i) {
      if (stored == Stored::kFloat32) {
        numbers[i] = drawn();
        std::memcpy(data.data() + 4 * i, &numbers[i], 4);
        continue;
      }
      if (stored == Stored::kFloat16) {
        numbers[i] = half(static_cast<uint16_t>(between(0x3000, 0x3bff) | between(0, 1) << 15), data.data() + 2 * i);
        continue;
      }
      if (i % run == 0) add_scale(block > 0);
      const int32_t integer = stored == Stored::kInt8 ? between(-128, 127) : between(-8, 7);
      numbers[i] = scale * static_cast<float>(integer);
      if (stored == Stored::kInt8) data[i] = static_cast<uint8_t>(integer);
      else data[i / 2] = static_cast<uint8_t>(data[i / 2] | (integer & 15) << (i % 2 * 4));
    }
    weight.data = data.data();
    weight.scales = scales.data();
  }

  // A normal half-precision number: its value, and its bits at `to`.
  static float half(uint16_t bits, uint8_t* to) {
    std::memcpy(to, &bits, sizeof bits);
    const float size = std::ldexp(static_cast<float>(1024 + (bits & 1023)), (bits >> 10 & 31) - 25);
    return bits >> 15 ? -size : size;
  }

  void add_scale(bool is_half) {
    uint8_t bytes[4];
    if (is_half) {
      scale = half(static_cast<uint16_t>(between(0x2000, 0x2fff)), bytes);
    } else {
      scale = 0.01f + std::abs(drawn()) / 50;
      std::memcpy(bytes, &scale, sizeof scale);
    }
    scales.insert(scales.end(), bytes, bytes + (is_half ? 2 : 4));
  }

  Weight weight{};
  float scale = 0;
  std::vector<float> numbers;
  std::vector<uint8_t> data, scales;
};

// Numbers as products with `weight` see them.
std::vector<double> seen(const Weight& weight, const std::vector<double>& row) {
  float most = 0;
  for (const double each : row) most = std::max(most, static_cast<float>(std::abs(each)));
  if (!weight.is_integer() || most == 0) return row;
  std::vector<double> rounded;
  for (const double each : row) {
    const float integer = std::nearbyint(static_cast<float>(each) * (127 / most));
    rounded.push_back(static_cast<double>(integer) * static_cast<double>(most / 127));
  }
  return rounded;
}

double dot(const Matrix& matrix, size_t row, const std::vector<double>& by) {
  double sum = 0;
  for (size_t i = 0; i < by.size(); ++i) sum += by[i] * static_cast<double>(matrix.numbers[row * by.size() + i]);
  return sum;
}

void check_case(WorkerPool& pool) {
  const auto form = [](int32_t& columns, int32_t& block) {
    const auto stored = static_cast<Stored>(between(0, 3));
    block = stored == Stored::kInt4 && between(0, 2) > 0 ? 32 << between(0, 3) : 0;
    columns = block > 0 ? block * between(1, 3) : 2 * between(1, 90);
    return stored;
  };
  Experts call{};
  int32_t gate_block, down_block;
  const Stored gate_stored = form(call.hidden, gate_block), down_stored = form(call.inner, down_block);
  call.experts = between(1, 5);
  call.count = between(1, 7);
  call.choices = between(1, 3);
  const Matrix gate_up(call.experts * 2 * call.inner, call.hidden, gate_stored, gate_block);
  const Matrix down(call.experts * call.hidden, call.inner, down_stored, down_block);
  const auto hidden = static_cast<size_t>(call.hidden), inner = static_cast<size_t>(call.inner);
  const auto count = static_cast<size_t>(call.count), choices = static_cast<size_t>(call.choices);
  std::vector<float> rows(count * hidden), shares(count * choices), out(rows.size(), NAN), alone(rows.size(), NAN);
  std::vector<int32_t> chosen(shares.size());
  std::generate(rows.begin(), rows.end(), drawn);
  std::generate(shares.begin(), shares.end(), drawn);
  for (int32_t& each : chosen) each = between(0, call.experts - 1);
  call.rows = rows.data();
  call.chosen = chosen.data();
  call.shares = shares.data();
  call.gate_up = gate_up.weight;
  call.down = down.weight;
  call.out = out.data();
  edge_mtp::mix_experts(call, &pool);
  call.out = alone.data();
  edge_mtp::mix_experts(call, nullptr);
  if (std::memcmp(out.data(), alone.data(), out.size() * sizeof(float)) != 0) {
    std::fprintf(stderr, "threads change a result\n");
    std::exit(1);
  }
  for (size_t t = 0; t < count; ++t) {
    std::vector<double> row(rows.begin() + static_cast<int64_t>(t * hidden),
                            rows.begin() + static_cast<int64_t>((t + 1) * hidden));
    row = seen(call.gate_up, row);
    std::vector<double> wanted(hidden), allowed(hidden, 1e-4);
    for (size_t k = 0; k < choices; ++k) {
      const auto expert = static_cast<size_t>(chosen[t * choices + k]);
      const double share = static_cast<double>(shares[t * choices + k]);
      std::vector<double> state;
      double most = 0;
      for (size_t i = 0; i < inner; ++i) {
        const double gate = dot(gate_up, expert * 2 * inner + i, row);
        const double up = dot(gate_up, expert * 2 * inner + inner + i, row);
        state.push_back(gate / 2 * (1 + std::tanh(0.7978845608 * (gate + 0.044715 * gate * gate * gate))) * up);
        most = std::max(most, std::abs(state.back()));
      }
      state = seen(call.down, state);
      for (size_t h = 0; h < hidden; ++h) {
        wanted[h] += share * dot(down, expert * hidden + h, state);
        // A state or two may be rounded to the other side.
        double largest = 0, total = 0;
        for (size_t i = 0; i < inner; ++i) {
          const double number = std::abs(static_cast<double>(down.numbers[(expert * hidden + h) * inner + i]));
          largest = std::max(largest, number);
          total += number * std::abs(state[i]);
        }
        allowed[h] += std::abs(share) * ((call.down.is_integer() ? 2 * largest * most / 127 : 0) + 1e-4 * total);
      }
    }
    for (size_t h = 0; h < hidden; ++h) {
      const double found = static_cast<double>(out[t * hidden + h]);
      if (!(std::abs(found - wanted[h]) <= allowed[h])) {
        std::fprintf(stderr, "row %zu, %zu: %g instead of %g\n", t, h, found, wanted[h]);
        std::exit(1);
      }
    }
  }
}

}  // namespace

int main() {
  WorkerPool pool(3);
  for (int i = 0; i < 300; ++i) check_case(pool);
  std::printf("ok\n");
}
