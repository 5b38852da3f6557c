// Writes rows of an embedder's table to standard output, then reads tables of damaged copies of the same file.
// usage: embedding_rows FILE DAMAGED_COPIES TOKEN...; exits with 2 when the file has no table that can be read.
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <memory>
#include <random>
#include <vector>

#include "error.h"
#include "tflite_file.h"

namespace {

// In a block of exactly its size, where a sanitizer sees a read past the end; not aligned, as a section need not be.
bool read_rows(const std::vector<char>& file, const std::vector<int32_t>& tokens, std::vector<float>& out) {
  const std::unique_ptr<uint8_t[]> block(new uint8_t[file.size() + 1]);
  std::copy(file.begin(), file.end(), block.get() + 1);
  const auto table = edge_mtp::find_embedding_table({block.get() + 1, file.size()});
  if (!table) return false;
  out.resize(tokens.size() * table->width);
  for (size_t i = 0; i < tokens.size(); ++i) table->row(tokens[i], out.data() + i * table->width);
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  std::ifstream in(argv[1], std::ios::binary);
  const std::vector<char> file((std::istreambuf_iterator<char>(in)), {});
  std::vector<int32_t> tokens;
  for (int i = 3; i < argc; ++i) tokens.push_back(std::atoi(argv[i]));
  std::vector<float> rows;
  if (!read_rows(file, tokens, rows)) return 2;
  std::fwrite(rows.data(), sizeof(float), rows.size(), stdout);

  std::mt19937 random(3);
  int found = 0;
  for (int copy = 0; copy < std::atoi(argv[2]); ++copy) {
    std::vector<char> damaged = file;
    if (copy % 4 == 0) damaged.resize(random() % file.size());
    for (int flips = 0; flips < 4 && !damaged.empty(); ++flips) {
      damaged[random() % damaged.size()] = static_cast<char>(random() % 4 == 0 ? random() : random() % 8);
    }
    try {
      found += read_rows(damaged, tokens, rows);
    } catch (const edge_mtp::Error&) {
    }
  }
  std::fprintf(stderr, "%d damaged tables read\n", found);
  return 0;
}
