// The kernel of attention on buffers of exactly the contract's sizes, so that a sanitizer sees a read or write past them,
// against the plainest possible attention. Values are checked at length in tests/oracle/test_attention.py.
#include "../attention.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "../worker_pool.h"

namespace {

using edge_mtp::Attention;
using edge_mtp::WorkerPool;

std::mt19937 random_numbers(1);

int32_t between(int32_t least, int32_t most) {
  return std::uniform_int_distribution<int32_t>(least, most)(random_numbers);
}


template <typename Number>
Number drawn() {
  if (sizeof(Number) == 1) return static_cast<Number>(between(-127, 127));
  return static_cast<Number>(between(-1000, 1000)) / 500;
}

template <typename Number>
void check_case(WorkerPool& pool) {
  Attention call{};
  call.heads = between(1, 3);
  call.tokens = between(1, 6);
  call.rows = call.tokens * between(1, 9);
  call.context = between(call.tokens, 700);
  call.dim = edge_mtp::kAttentionDim * between(1, 5);
  call.int8 = sizeof(Number) == 1;
  const auto size = [](int32_t a, int32_t b, int32_t c) {
    return static_cast<size_t>(a) * static_cast<size_t>(b) * static_cast<size_t>(c);
  };
  std::vector<float> query(size(call.heads, call.rows, call.dim)), out(query.size(), NAN), alone(query.size());
  std::vector<Number> keys(size(call.heads, call.context, call.dim)), values(keys.size());
  std::vector<int32_t> seen(static_cast<size_t>(call.tokens) * 2);
  for (float& each : query) each = drawn<float>() / (call.int8 ? 32 : 1);
  std::generate(keys.begin(), keys.end(), drawn<Number>);
  std::generate(values.begin(), values.end(), drawn<Number>);
  const int32_t position = between(0, call.context - call.tokens), window = between(1, call.context + 1);
  for (int32_t t = 0; t < call.tokens; ++t) {
    seen[static_cast<size_t>(2 * t)] = std::max(0, position + t + 1 - window);
    seen[static_cast<size_t>(2 * t + 1)] = position + t + 1;
  }
  call.query = query.data();
  call.keys = keys.data();
  call.values = values.data();
  call.seen = seen.data();
  call.out = out.data();
  edge_mtp::attend(call, &pool);
  call.out = alone.data();
  edge_mtp::attend(call, nullptr);
  if (std::memcmp(out.data(), alone.data(), out.size() * sizeof(float)) != 0) {
    std::fprintf(stderr, "threads change a result\n");
    std::exit(1);
  }
  for (int32_t h = 0; h < call.heads; ++h) {
    for (int32_t r = 0; r < call.rows; ++r) {
      const size_t row = size(h, call.rows, call.dim) + size(r, call.dim, 1);
      const int32_t begin = seen[static_cast<size_t>(2 * (r % call.tokens))];
      const int32_t end = seen[static_cast<size_t>(2 * (r % call.tokens) + 1)];
      std::vector<double> weights, sums(static_cast<size_t>(call.dim));
      double total = 0;
      for (int32_t s = begin; s < end; ++s) {
        double score = 0;
        for (int32_t d = 0; d < call.dim; ++d) {
          const Number key = keys[size(h, call.context, call.dim) + size(s, call.dim, 1) + static_cast<size_t>(d)];
          score += static_cast<double>(query[row + static_cast<size_t>(d)]) * static_cast<double>(key);
        }
        weights.push_back(score);
      }
      const double most = *std::max_element(weights.begin(), weights.end());
      for (double& weight : weights) total += weight = std::exp(weight - most);
      for (int32_t d = 0; d < call.dim; ++d) {
        double wanted = 0;
        for (int32_t s = begin; s < end; ++s) {
          const size_t at = size(h, call.context, call.dim) + size(d, call.context, 1) + static_cast<size_t>(s);
          wanted += weights[static_cast<size_t>(s - begin)] / total * static_cast<double>(values[at]);
        }
        const double found = static_cast<double>(out[row + static_cast<size_t>(d)]);
        if (std::abs(found - wanted) > 1e-4 * (call.int8 ? 127 : 2)) {
          std::fprintf(stderr, "row %d, %d: %g instead of %g\n", r, d, found, wanted);
          std::exit(1);
        }
      }
    }
  }
}

}  // namespace

int main() {
  WorkerPool pool(3);
  for (int i = 0; i < 300; ++i) {
    check_case<float>(pool);
    check_case<int8_t>(pool);
  }
  std::printf("ok\n");
}
