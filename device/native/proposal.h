// Draft tokens on their way to the verify graph, and where each came from.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace edge_mtp {

enum class Source : uint8_t { kDrafter, kLookup, kGrammar };
constexpr int32_t kSources = 3;
// The most tokens that a step can draft, whatever the bundle's widths; arrays of a step have this size.
constexpr int32_t kMaxDrafts = 31;

// Tokens that a step wants verified, in order: token i is the guess for the i-th position after the pending token.
struct Proposal {
  int32_t count = 0;
  std::array<int32_t, kMaxDrafts> tokens{};
  std::array<float, kMaxDrafts> confidence{};  // probability that the source gives the token
  std::array<Source, kMaxDrafts> source{};

  void add(int32_t token, float probability, Source from) {
    if (count == kMaxDrafts) return;
    const auto i = static_cast<size_t>(count++);
    tokens[i] = token;
    confidence[i] = probability;
    source[i] = from;
  }
};

}  // namespace edge_mtp
