// The kernel of the candidates on buffers of exactly the contract's sizes, so that a sanitizer sees a read or write past
// them, against the plainest possible products. Values are checked at length in tests/oracle/test_candidates.py.
#include "../candidates.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "../half.h"
#include "../worker_pool.h"

namespace {

using edge_mtp::Candidates;
using edge_mtp::Matrix;
using edge_mtp::WorkerPool;

std::mt19937 random_numbers(1);

int32_t between(int32_t least, int32_t most) {
  return std::uniform_int_distribution<int32_t>(least, most)(random_numbers);
}

void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "%s\n", what);
  std::exit(1);
}

// Weight i of a row, without its scale.
double weight(const Matrix& head, const uint8_t* row, int32_t i) {
  const auto bytes = [&](size_t size) { return row + static_cast<size_t>(i) * size; };
  if (head.type == Matrix::Type::kFloat32) {
    float value;
    std::memcpy(&value, bytes(sizeof value), sizeof value);
    return static_cast<double>(value);
  }
  if (head.type == Matrix::Type::kFloat16) {
    uint16_t value;
    std::memcpy(&value, bytes(sizeof value), sizeof value);
    return static_cast<double>(edge_mtp::half_to_float(value));
  }
  const int32_t bits = head.bits(), from = i * bits % 8;
  const int32_t stored = row[i * bits / 8] >> from & ((1 << bits) - 1);
  return stored >= 1 << (bits - 1) ? stored - (1 << bits) : stored;
}

void check_case(WorkerPool& pool, Matrix::Type type, int32_t block) {
  Candidates call{};
  Matrix& head = call.head;
  head.type = type;
  head.block = block;
  head.width = block > 0 ? block * between(1, 4) : 4 * between(1, 40);
  call.centroids = between(1, 9);
  call.members = between(1, 70);
  call.count = between(1, 6);
  head.rows = call.centroids * call.members;
  const auto rows = static_cast<size_t>(head.rows), width = static_cast<size_t>(head.width);
  std::vector<uint8_t> data(rows * static_cast<size_t>(head.row_bytes()));
  for (uint8_t& each : data) each = static_cast<uint8_t>(between(0, 255));
  std::vector<float> state(width), row_scales(block > 0 ? 0 : rows);
  for (float& each : state) each = static_cast<float>(between(-1000, 1000)) / 500;
  for (float& each : row_scales) each = static_cast<float>(between(1, 1000)) / 1000;
  const size_t blocks = block > 0 ? width / static_cast<size_t>(block) : 1;
  std::vector<uint16_t> block_scales(block > 0 ? rows * blocks : 0);
  for (uint16_t& each : block_scales) each = static_cast<uint16_t>(between(0x2000, 0x3c00));
  if (type == Matrix::Type::kFloat32) {
    for (size_t i = 0; i < rows * width; ++i) {
      const float value = static_cast<float>(between(-1000, 1000)) / 500;
      std::memcpy(data.data() + i * sizeof value, &value, sizeof value);
    }
  } else if (type == Matrix::Type::kFloat16) {
    for (size_t i = 0; i < rows * width; ++i) {
      const auto value = static_cast<uint16_t>(between(0x2000, 0x3c00) | between(0, 1) << 15);
      std::memcpy(data.data() + i * sizeof value, &value, sizeof value);
    }
  }
  std::vector<int32_t> tokens(rows), nearest(static_cast<size_t>(call.count));
  for (int32_t& each : tokens) each = between(0, 1 << 20);
  for (int32_t& each : nearest) each = between(-1, call.centroids);  // two of these do not exist
  const size_t results = nearest.size() * static_cast<size_t>(call.members);
  std::vector<float> logits(results), alone(results);
  std::vector<int32_t> ids(results, -7);
  head.data = data.data();
  head.scales = block > 0 ? static_cast<const void*>(block_scales.data()) : row_scales.data();
  call.state = state.data();
  call.tokens = tokens.data();
  call.nearest = nearest.data();
  call.ids = ids.data();
  call.logits = alone.data();
  edge_mtp::find_candidates(call, nullptr);
  call.logits = logits.data();
  edge_mtp::find_candidates(call, &pool);
  require(std::memcmp(logits.data(), alone.data(), results * sizeof(float)) == 0, "threads change a result");
  for (size_t i = 0; i < results; ++i) {
    const auto members = static_cast<size_t>(call.members);
    const int32_t centroid = nearest[i / members];
    if (centroid < 0 || centroid >= call.centroids) {
      require(std::isnan(logits[i]) && ids[i] == 0, "a centroid that does not exist has logits");
      continue;
    }
    const size_t row = static_cast<size_t>(centroid) * members + i % members;
    require(ids[i] == tokens[row], "a logit has another row's token");
    double wanted = 0, size = 0;
    for (int32_t k = 0; k < head.width; ++k) {
      double scale = 1;
      if (block > 0) {
        scale = static_cast<double>(edge_mtp::half_to_float(block_scales[row * blocks + static_cast<size_t>(k / block)]));
      } else if (head.is_integer()) {
        scale = static_cast<double>(row_scales[row]);
      }
      const double product = scale * weight(head, data.data() + row * static_cast<size_t>(head.row_bytes()), k) *
                             static_cast<double>(state[static_cast<size_t>(k)]);
      wanted += product;
      size += std::abs(product);
    }
    require(std::abs(static_cast<double>(logits[i]) - wanted) <= 1e-5 * size + 1e-30, "a logit is wrong");
  }
}

}  // namespace

int main() {
  WorkerPool pool(3);
  for (int i = 0; i < 100; ++i) {
    for (const Matrix::Type type : {Matrix::Type::kFloat32, Matrix::Type::kFloat16, Matrix::Type::kInt8,
                                    Matrix::Type::kInt4, Matrix::Type::kInt2}) {
      check_case(pool, type, 0);
    }
    check_case(pool, Matrix::Type::kInt4, 32 << i % 4);
  }
  std::printf("ok\n");
}
