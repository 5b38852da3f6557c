// Token masks of the states of a compiled grammar that read bytes, for the engine's compiler (xgrammar.cmake puts it
// there). The engine itself tries every token with its parser, which takes 30 ms a state at 262,144 tokens, and a
// string of counted length has a state for every character.
#pragma once

#include <compiled_grammar_impl.h>
#include <fsm.h>
#include <xgrammar/tokenizer_info.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

namespace edge_mtp {

class ByteMask {
 public:
  ByteMask(const xgrammar::CompactFSMWithStartEnd& automaton, const xgrammar::TokenizerInfo& info)
      : automaton_(automaton), info_(info) {}

  // The mask of `start`: each token accepted, rejected or uncertain as the engine would have it, where the rule's bytes
  // alone say. None where they do not: the engine then has to find out by itself.
  std::optional<xgrammar::AdaptiveTokenMask> of(int start) {
    if (!add(start) || nodes_[0].foreign) return std::nullopt;
    std::vector<int32_t> accepted, rejected, uncertain;
    std::vector<int> path{0};          // the node behind each byte of the token at hand, as far as there is one
    std::vector<char> ended{0};        // whether the rule may have ended behind one of those bytes
    const std::string* before = nullptr;
    const auto& tokens = info_.GetSortedDecodedVocab();
    for (int32_t i = 0; i < static_cast<int32_t>(tokens.size()); ++i) {
      const std::string& token = tokens[static_cast<size_t>(i)].second;
      size_t same = 0;
      if (before != nullptr) {
        const size_t most = std::min({token.size(), before->size(), path.size()});
        while (same < most && token[same] == (*before)[same]) ++same;
      }
      before = &token;
      // The bytes behind which nothing goes on are those of the token before.
      bool dead = same >= path.size();
      if (!dead) {
        path.resize(same + 1);
        ended.resize(same + 1);
      }
      while (!dead && path.size() <= token.size()) {
        const size_t node = static_cast<size_t>(path.back());
        if (nodes_[node].foreign) return std::nullopt;
        const int next = nodes_[node].next[static_cast<uint8_t>(token[path.size() - 1])];
        if (next < 0) {
          dead = true;
        } else {
          if (!nodes_[static_cast<size_t>(next)].read && !read(next)) return std::nullopt;
          ended.push_back(ended.back() != 0 || nodes_[static_cast<size_t>(next)].end);
          path.push_back(next);
        }
      }
      (!dead ? accepted : ended.back() != 0 ? uncertain : rejected).push_back(i);
    }
    return xgrammar::AdaptiveTokenMask(static_cast<size_t>(info_.GetVocabSize()), tokens, accepted, rejected, uncertain);
  }

 private:
  struct Node {
    int state = 0;
    bool read = false, end = false;
    bool foreign = false;  // has a way on that is no byte: another rule's text, say
    std::array<int, 256> next{};
  };

  bool add(int state) {
    known_.emplace(state, 0);
    nodes_.emplace_back().state = state;
    return read(0);
  }

  // False where one byte leads two ways.
  bool read(int at) {
    std::array<int, 256> next;
    next.fill(-1);
    const int state = nodes_[static_cast<size_t>(at)].state;
    bool foreign = false;
    for (const auto& edge : automaton_.GetFsm().GetEdges(state)) {
      if (!edge.IsCharRange()) {
        foreign = true;
        continue;
      }
      const auto [found, fresh] = known_.emplace(edge.target, static_cast<int>(nodes_.size()));
      if (fresh) nodes_.emplace_back().state = edge.target;
      for (int byte = edge.min; byte <= edge.max; ++byte) {
        int& way = next[static_cast<size_t>(byte)];
        if (way >= 0 && way != found->second) return false;
        way = found->second;
      }
    }
    Node& node = nodes_[static_cast<size_t>(at)];
    node.next = next;
    node.foreign = foreign;
    node.end = automaton_.IsEndState(state);
    node.read = true;
    return true;
  }

  const xgrammar::CompactFSMWithStartEnd& automaton_;
  const xgrammar::TokenizerInfo& info_;
  std::vector<Node> nodes_;
  std::unordered_map<int, int> known_;
};

}  // namespace edge_mtp
