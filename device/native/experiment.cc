#include "experiment.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "clock.h"
#include "decoder.h"
#include "drafter.h"
#include "error.h"
#include "kv_cache.h"

namespace edge_mtp {
namespace {

constexpr int32_t kPrefillCalls = 3;  // at least: a fault of one GPU backend showed in the third

// A text that is the same everywhere: ids of the middle of the vocabulary, which are words in every tokenizer.
std::vector<int32_t> fixed_text(int32_t length, int32_t vocabulary) {
  std::vector<int32_t> text;
  uint32_t state = 1;
  for (int32_t i = 0; i < length; ++i) {
    state = state * 1664525u + 1013904223u;
    text.push_back(vocabulary / 4 + static_cast<int32_t>((state >> 8) % static_cast<uint32_t>(vocabulary / 2)));
  }
  return text;
}

template <typename Body>
double middle_time(const Body& body) {
  body();  // the first run also prepares the graph
  std::array<double, 3> us{};
  for (double& each : us) {
    Clock clock;
    body();
    each = clock.elapsed();
  }
  std::nth_element(us.begin(), us.begin() + 1, us.end());
  return us[1];
}

class Experiment {
 public:
  explicit Experiment(Engine& engine) : engine_(engine) {
    Decoder::reserve(engine, pool_);
    Drafter::reserve(engine, pool_);
    decoder_ = std::make_unique<Decoder>(engine, pool_);
    drafter_ = Drafter::create(engine, pool_);
  }

  Trial run() {
    prefill();
    decode();
    if (drafter_ != nullptr) draft();
    if (!decoder_->widths().empty()) verify();
    if (trial_.fault.empty()) measure();
    return std::move(trial_);
  }

 private:
  void prefill() {
    std::vector<int32_t> calls = decoder_->prefill_lengths();
    if (calls.empty()) calls.push_back(1);
    while (calls.size() < kPrefillCalls) calls.push_back(calls.front());
    const int32_t room = engine_.context_length() - engine_.max_drafts() - 2;
    text_ = fixed_text(engine_.context_length(), engine_.vocabulary());
    for (const int32_t rows : calls) {
      if (position_ + rows > room) break;
      decoder_->prefill(text_.data() + position_, rows, position_, rows);
      position_ += rows;
    }
    const KvCache cache(engine_.decoder(), engine_.decode(), engine_.context_length());
    std::vector<uint8_t> entries = cache.read(pool_, position_);
    Trial::Output output{"the cache behind the prompt", false, {}};
    output.values.resize(entries.size() / sizeof(float));
    std::memcpy(output.values.data(), entries.data(), output.values.size() * sizeof(float));
    trial_.outputs.push_back(std::move(output));
  }

  void decode() {
    pass(1, {});
    note("decode", 1);
    decoder_->keep_hidden(0);
    ++position_;
  }

  void draft() {
    for (const int32_t length : drafter_->lengths()) {
      Proposal proposal;
      drafter_->draft(text_[at(0)], position_, length, nullptr, proposal);
      const std::string name = "a draft of " + std::to_string(length);
      if (proposal.count != length) return fail(name + " has fewer tokens");
      trial_.outputs.push_back({"the confidences of " + name, false, {proposal.confidence[0]}});
      for (int32_t j = 0; j < proposal.count; ++j) {
        if (!is_token(proposal.tokens[static_cast<size_t>(j)])) return fail(name + " has what is no token");
      }
    }
  }

  // Each verify graph, first on drafts out of the text, then with one that its own first row accepts.
  void verify() {
    for (const int32_t rows : decoder_->widths()) {
      const std::string name = "verify " + std::to_string(rows);
      std::vector<int32_t> drafts(text_.data() + at(1), text_.data() + at(rows));
      pass(rows, drafts);
      note(name, rows);
      if (!decoder_->verifies_inside()) continue;
      const int32_t first = decoder_->tokens()[0];
      if (first != likeliest(decoder_->logits(0))) return fail(name + " selects another token than its logits say");
      drafts[0] = first;
      pass(rows, drafts);
      if (decoder_->accepted() < 1 || decoder_->accepted() >= rows) return fail(name + " miscounts the accepted drafts");
    }
  }

  void measure() {
    trial_.plain_us = middle_time([&] { pass(1, {}); });
    for (const int32_t rows : decoder_->widths()) {
      trial_.verify_us[rows] = middle_time([&] { pass(rows, {}); });
    }
    if (drafter_ == nullptr) return;
    for (const int32_t length : drafter_->lengths()) {
      trial_.draft_us[length] = middle_time([&] {
        Proposal proposal;
          drafter_->draft(text_[at(0)], position_, length, nullptr, proposal);
      });
    }
  }

  void pass(int32_t rows, const std::vector<int32_t>& drafts) {
    Proposal proposal;
    for (const int32_t draft : drafts) proposal.add(draft, 1.0f, Source::kDrafter);
    decoder_->place(text_[at(0)], proposal, position_, rows);
    decoder_->run();
  }

  void note(const std::string& pass, int32_t rows) {
    const auto copy = [&](const char* what, const float* from, int32_t width, bool is_logits) {
      const size_t count = static_cast<size_t>(rows) * static_cast<size_t>(width);
      trial_.outputs.push_back({"the " + std::string(what) + " of " + pass, is_logits, {from, from + count}});
    };
    copy("logits", decoder_->logits(0), engine_.vocabulary(), true);
    if (const float* hidden = decoder_->hidden()) copy("hidden states", hidden, engine_.hidden_size(), false);
  }

  int32_t likeliest(const float* logits) const {
    return static_cast<int32_t>(std::max_element(logits, logits + engine_.vocabulary()) - logits);
  }
  bool is_token(int32_t token) const { return token >= 0 && token < engine_.vocabulary(); }
  // The index in the text of a token behind those in the cache.
  size_t at(int32_t offset) const { return static_cast<size_t>(position_ + offset); }
  void fail(const std::string& what) {
    if (trial_.fault.empty()) trial_.fault = what;
  }

  Engine& engine_;
  BufferPool pool_;
  std::unique_ptr<Decoder> decoder_;
  std::unique_ptr<Drafter> drafter_;
  std::vector<int32_t> text_;
  int32_t position_ = 0;
  Trial trial_;
};

}  // namespace

Trial try_out(Engine& engine) { return Experiment(engine).run(); }

}  // namespace edge_mtp
