// Runs a fuzz target on mutations of seed files: the same number, the same inputs.
// usage: fuzz_TARGET SEEDS_FOLDER RUNS [NUMBER [ONLY_RUN]]
//
// Each run starts from one seed and damages it a few times, with what damages a format most: bits, bytes, truncation,
// pieces of other seeds, and above all its integers, for lengths and offsets decide where a reader goes. The first runs
// are the seeds as they are. A crash names the run; ONLY_RUN repeats it alone and leaves its input in ./fuzz_input.
#include <algorithm>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <random>
#include <vector>

#include <unistd.h>

#include "fuzz.h"

// An input of kilobytes that makes a reader allocate hundreds of megabytes is an attack.
extern "C" const char* __asan_default_options() { return "max_allocation_size_mb=256:handle_abort=1"; }
extern "C" void __sanitizer_set_death_callback(void (*callback)()) __attribute__((weak));

namespace {

using Bytes = std::vector<uint8_t>;
using Random = std::mt19937_64;

constexpr unsigned kPatienceS = 60;  // for one input; none takes a thousandth of it
constexpr size_t kLongest = 1 << 16;

uint64_t number = 0;
volatile uint64_t current_run = 0;

void name_the_run() {
  char line[96];
  const int length = std::snprintf(line, sizeof line, "in run %llu of number %llu\n",
                                   static_cast<unsigned long long>(current_run), static_cast<unsigned long long>(number));
  if (write(STDERR_FILENO, line, static_cast<size_t>(length)) < 0) return;
}

void on_signal(int signal) {
  name_the_run();
  std::signal(signal, SIG_DFL);
  std::raise(signal);
}

struct Seed {
  Bytes bytes;
  std::vector<size_t> places;  // of bytes that are not 0: most of a container is padding
};

std::vector<Seed> read_seeds(const char* folder) {
  std::vector<std::filesystem::path> paths;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) paths.push_back(entry.path());
  std::sort(paths.begin(), paths.end());
  std::vector<Seed> seeds;
  for (const auto& path : paths) {
    std::ifstream in(path, std::ios::binary);
    Seed seed{Bytes((std::istreambuf_iterator<char>(in)), {}), {}};
    for (size_t i = 0; i < seed.bytes.size(); ++i) {
      if (seed.bytes[i] != 0) seed.places.push_back(i);
    }
    seeds.push_back(std::move(seed));
  }
  return seeds;
}

class Mutator {
 public:
  Mutator(const std::vector<Seed>& seeds, Random& random) : seeds_(seeds), random_(random) {}

  Bytes operator()() {
    seed_ = &seeds_[below(seeds_.size())];
    Bytes bytes = seed_->bytes;
    for (size_t left = 1 + below(below(8) == 0 ? 24 : 4); left > 0; --left) damage(bytes);
    if (bytes.size() > kLongest && seed_->bytes.size() <= kLongest) bytes.resize(kLongest);
    return bytes;
  }

 private:
  size_t below(size_t limit) { return limit == 0 ? 0 : static_cast<size_t>(random_() % limit); }

  size_t place(const Bytes& bytes) {
    if (seed_->places.empty() || below(8) == 0) return below(bytes.size());
    const size_t at = seed_->places[below(seed_->places.size())];
    return at < bytes.size() ? at : below(bytes.size());
  }

  void damage(Bytes& bytes) {
    if (bytes.empty()) {
      bytes.assign(1 + below(64), static_cast<uint8_t>(random_()));
      return;
    }
    const size_t at = place(bytes);
    switch (below(10)) {
      case 0:
        bytes[at] ^= static_cast<uint8_t>(1u << below(8));
        break;
      case 1:
        bytes[at] = static_cast<uint8_t>(random_());
        break;
      case 2:
        bytes.resize(below(4) == 0 ? below(bytes.size()) : at);
        break;
      case 3:
      case 4:
        put(bytes, at, interesting(bytes.size()));
        break;
      case 5:
        shift(bytes, at);
        break;
      case 6: {  // an integer from elsewhere: an offset that is right for something else
        const size_t from = place(bytes) & ~size_t{3};
        uint32_t value = 0;
        std::memcpy(&value, bytes.data() + from, std::min(sizeof value, bytes.size() - from));
        put(bytes, at, value);
        break;
      }
      case 7: {  // erase
        const size_t length = std::min(1 + below(16), bytes.size() - at);
        bytes.erase(bytes.begin() + static_cast<ptrdiff_t>(at), bytes.begin() + static_cast<ptrdiff_t>(at + length));
        break;
      }
      case 8: {  // a piece of any seed, put between or over
        const Bytes& other = seeds_[below(seeds_.size())].bytes;
        if (other.empty()) break;
        const size_t from = below(other.size()), length = std::min(1 + below(64), other.size() - from);
        const auto first = other.begin() + static_cast<ptrdiff_t>(from);
        if (below(2) == 0) {
          bytes.insert(bytes.begin() + static_cast<ptrdiff_t>(at), first, first + static_cast<ptrdiff_t>(length));
        } else {
          std::copy_n(first, std::min(length, bytes.size() - at), bytes.begin() + static_cast<ptrdiff_t>(at));
        }
        break;
      }
      default: {  // one byte, many times: nesting, long runs
        const size_t length = below(8) == 0 ? below(2000) : below(40);
        bytes.insert(bytes.begin() + static_cast<ptrdiff_t>(at), length, bytes[at]);
      }
    }
  }

  uint64_t interesting(size_t size) {
    const uint64_t values[] = {0, 1, 2, 4, 0x7f, 0x80, 0xff, 0x7fff, 0x8000, 0xffff, 0x7fffffff, 0x80000000,
                               0xfffffffe, 0xffffffff, 0x7fffffffffffffff, 0x8000000000000000, ~uint64_t{0},
                               0xfffffffffffffffc, size, size - 1, size + 1, size / 4, size - 4, random_()};
    return values[below(std::size(values))];
  }

  // Little endian, 1 to 8 bytes wide, mostly where integers of that width lie.
  void put(Bytes& bytes, size_t at, uint64_t value) {
    const size_t width = size_t{1} << below(4);
    if (below(4) != 0) at &= ~(width - 1);
    std::memcpy(bytes.data() + at, &value, std::min(width, bytes.size() - at));
  }

  // A length or an offset a little off.
  void shift(Bytes& bytes, size_t at) {
    at &= ~size_t{3};
    uint32_t value = 0;
    const size_t width = std::min(sizeof value, bytes.size() - at);
    std::memcpy(&value, bytes.data() + at, width);
    value += static_cast<uint32_t>(below(33)) - 16;
    std::memcpy(bytes.data() + at, &value, width);
  }

  const std::vector<Seed>& seeds_;
  Random& random_;
  const Seed* seed_ = nullptr;
};

void run_one(const Bytes& bytes) {
  // In a block of exactly its size, where a sanitizer sees a read past the end.
  const std::unique_ptr<uint8_t[]> block(new uint8_t[bytes.size()]);
  std::copy(bytes.begin(), bytes.end(), block.get());
  LLVMFuzzerTestOneInput(block.get(), bytes.size());
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "usage: %s SEEDS_FOLDER RUNS [NUMBER [ONLY_RUN]]\n", argv[0]);
    return 2;
  }
  const std::vector<Seed> seeds = read_seeds(argv[1]);
  const uint64_t runs = std::strtoull(argv[2], nullptr, 10);
  number = argc > 3 ? std::strtoull(argv[3], nullptr, 10) : 1;
  const uint64_t first = argc > 4 ? std::strtoull(argv[4], nullptr, 10) : 0;
  if (seeds.empty()) {
    std::fprintf(stderr, "no seeds in %s\n", argv[1]);
    return 2;
  }
  if (__sanitizer_set_death_callback != nullptr) __sanitizer_set_death_callback(name_the_run);
  for (const int signal : {SIGALRM, SIGABRT}) std::signal(signal, on_signal);

  for (uint64_t run = first; run < (argc > 4 ? first + 1 : runs); ++run) {
    current_run = run;
    alarm(kPatienceS);
    Random random(number * 0x9E3779B97F4A7C15ull + run);
    const Bytes bytes = run < seeds.size() ? seeds[run].bytes : Mutator(seeds, random)();
    if (argc > 4) {
      std::ofstream("fuzz_input", std::ios::binary)
          .write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
    }
    run_one(bytes);
  }
  std::printf("%llu inputs from %zu seeds\n", static_cast<unsigned long long>(runs), seeds.size());
  return 0;
}
