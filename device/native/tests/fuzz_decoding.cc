// The state machines of the decode loop, driven by any sequence of calls: processors, stop strings, look-up.
#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include "fuzz.h"
#include "lookup.h"
#include "processors.h"
#include "stop_text.h"
#include "token_bytes.h"

namespace {

constexpr int32_t kVocabulary = 37, kCapacity = 50;

void run_processors(Operands& operands) {
  edge_mtp::Processors processors(kVocabulary);
  std::vector<float> row(kVocabulary);
  while (!operands.empty()) {
    switch (operands.below(8)) {
      case 0: {
        edge_mtp::Processing processing;
        for (int32_t i = operands.below(4); i > 0; --i) {
          processing.bias.emplace_back(operands.below(kVocabulary + 1) - operands.below(2), operands.take<float>());
        }
        for (int32_t i = operands.below(4); i > 0; --i) processing.suppress.push_back(operands.take<int32_t>() % 40);
        processing.repetition_penalty = operands.take<float>();
        processing.presence_penalty = operands.take<float>();
        processing.frequency_penalty = operands.take<float>();
        const std::string_view prompt = operands.text();
        must_answer([&] { processors.begin(processing, {prompt.begin(), prompt.end()}); });
        break;
      }
      case 1:
        must_answer([&] { processors.pop(operands.below(edge_mtp::kMaxDrafts + 4) - 1); });
        break;
      case 2: {
        for (float& logit : row) logit = operands.take<float>();
        processors.apply(row.data());
        const edge_mtp::Chosen chosen = edge_mtp::describe_choice(row.data(), kVocabulary, operands.below(kVocabulary));
        const bool has_nan = std::any_of(row.begin(), row.end(), [](float logit) { return std::isnan(logit); });
        const bool has_any = std::any_of(row.begin(), row.end(), [](float logit) { return logit > -INFINITY; });
        must(has_nan || !has_any || (std::isfinite(chosen.logprob) && std::isfinite(chosen.margin)), "finite figures");
        break;
      }
      default:
        must_answer([&] { processors.push(operands.below(kVocabulary + 1)); });
    }
  }
}

void run_lookup(Operands& operands) {
  edge_mtp::Lookup lookup;
  edge_mtp::Proposal proposal;
  lookup.begin(kCapacity);
  std::vector<int32_t> text;
  while (!operands.empty()) {
    switch (operands.below(6)) {
      case 0: {
        const int32_t length = operands.below(kCapacity + 4) - 2;
        lookup.truncate(length);
        text.resize(std::min(text.size(), static_cast<size_t>(std::max(length, 0))));
        break;
      }
      case 1: {
        if (operands.below(4) != 0) proposal.count = 0;
        const int32_t least = operands.below(9) - 1, most = operands.below(40) - 1, before = proposal.count;
        lookup.propose(least, most, proposal);
        must(proposal.count >= before && proposal.count <= edge_mtp::kMaxDrafts, "a proposal fits");
        must(proposal.count - before <= std::max(most, 0), "no more than asked");
        break;
      }
      case 2:
        if (operands.below(8) == 0) {
          lookup.begin(kCapacity);
          text.clear();
        }
        break;
      default: {
        const int32_t token = operands.below(3);
        must_answer([&] {
          lookup.push(token);
          text.push_back(token);
        });
      }
    }
    must(lookup.length() == static_cast<int32_t>(text.size()), "the length is that of the text");
  }
}

void run_stops(Operands& operands) {
  std::vector<uint8_t> table = {'E', 'M', 'T', 'B', 1, 0, 0, 0, 4, 0, 0, 0};
  const std::string_view texts[] = {operands.text(), operands.text(), operands.text(), ""};
  uint32_t end = 0;
  std::string joined;
  for (int i = 0; i <= 4; ++i) {
    const auto* bytes = reinterpret_cast<const uint8_t*>(&end);
    table.insert(table.end(), bytes, bytes + sizeof end);
    if (i == 4) break;
    end += static_cast<uint32_t>(texts[i].size());
    joined += texts[i];
  }
  table.insert(table.end(), joined.begin(), joined.end());
  table.resize(table.size() + 4);
  const edge_mtp::TokenBytes tokens({table.data(), table.size()});
  must_answer([&] {
    std::vector<std::string> strings;
    for (int32_t i = operands.below(5); i > 0; --i) strings.emplace_back(operands.text());
    const auto count = static_cast<int32_t>(strings.size());
    edge_mtp::StopText stops(tokens, std::move(strings));
    while (!operands.empty()) {
      const int32_t found = stops.push(operands.take<int8_t>());
      must(found >= -1 && found < count, "an index of a string");
    }
  });
}

}  // namespace

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Operands operands(data, size);
  switch (operands.take<uint8_t>() % 3) {
    case 0: run_processors(operands); break;
    case 1: run_lookup(operands); break;
    default: run_stops(operands);
  }
  return 0;
}
