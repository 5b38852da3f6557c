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
using edge_mtp::Matrix;
using edge_mtp::WorkerPool;

std::mt19937 random_numbers(1);

int32_t between(int32_t least, int32_t most) {
  return std::uniform_int_distribution<int32_t>(least, most)(random_numbers);
}

float drawn() { return static_cast<float>(between(-1000, 1000)) / 1000; }

// A random matrix as it is stored, and the numbers that it stands for.
struct Stored {
  Stored(int32_t rows, int32_t columns, Matrix::Type type, int32_t block) {
    const auto size = static_cast<size_t>(rows) * static_cast<size_t>(columns);
    numbers.resize(size);
    weight = {type, nullptr, nullptr, rows, columns, block};
    data.resize(static_cast<size_t>(weight.row_bytes() * rows));
    const auto run = static_cast<size_t>(block > 0 ? block : columns);
    for (size_t i = 0; i < size; ++i) {
      if (type == Matrix::Type::kFloat32) {
        numbers[i] = drawn();
        std::memcpy(data.data() + 4 * i, &numbers[i], 4);
        continue;
      }
      if (type == Matrix::Type::kFloat16) {
        numbers[i] = half(static_cast<uint16_t>(between(0x3000, 0x3bff) | between(0, 1) << 15), data.data() + 2 * i);
        continue;
      }
      if (i % run == 0) add_scale(block > 0);
      const int32_t bits = weight.bits(), half_range = 1 << (bits - 1), integer = between(-half_range, half_range - 1);
      const size_t bit = i * static_cast<size_t>(bits);
      numbers[i] = scale * static_cast<float>(integer);
      data[bit / 8] = static_cast<uint8_t>(data[bit / 8] | (integer & ((1 << bits) - 1)) << bit % 8);
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

  Matrix weight{};
  float scale = 0;
  std::vector<float> numbers;
  std::vector<uint8_t> data, scales;
};

// Numbers as products with `weight` see them.
std::vector<double> seen(const Matrix& weight, const std::vector<double>& row) {
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

double dot(const Stored& matrix, size_t row, const std::vector<double>& by) {
  double sum = 0;
  for (size_t i = 0; i < by.size(); ++i) sum += by[i] * static_cast<double>(matrix.numbers[row * by.size() + i]);
  return sum;
}

void check_case(WorkerPool& pool) {
  const auto form = [](int32_t& columns, int32_t& block) {
    const auto type = static_cast<Matrix::Type>(between(0, 4));
    block = type == Matrix::Type::kInt4 && between(0, 2) > 0 ? 32 << between(0, 3) : 0;
    columns = block > 0 ? block * between(1, 3) : 4 * between(1, 45);
    return type;
  };
  Experts call{};
  int32_t gate_block, down_block;
  const Matrix::Type gate_type = form(call.hidden, gate_block), down_type = form(call.inner, down_block);
  call.experts = between(1, 5);
  call.count = between(1, 7);
  call.choices = between(1, 3);
  const Stored gate_up(call.experts * 2 * call.inner, call.hidden, gate_type, gate_block);
  const Stored down(call.experts * call.hidden, call.inner, down_type, down_block);
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
