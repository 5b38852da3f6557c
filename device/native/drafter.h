// The drafter: K tokens that may follow, from the hidden state of the target's last row.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "bounds.h"
#include "engine.h"
#include "graph.h"
#include "proposal.h"

namespace edge_mtp {

class Drafter {
 public:
  virtual ~Drafter() = default;

  // The numbers of drafts that one call can make, ascending.
  virtual const std::vector<int32_t>& lengths() const = 0;
  // Appends `count` (one of lengths()) drafts to `proposal`: what may follow `token`, which stands at `position` and
  // is not cached yet. `bounds`, where given, may be followed: fewer drafts then, all of them allowed by them; they are
  // left as they were. Reads the operands `control` and `scalars` of the op edge_mtp.draft.
  virtual void draft(int32_t token, int32_t position, int32_t count, Bounds* bounds, Proposal& proposal) = 0;

  // The engine's drafter on the memory that the decoder shares, or nullptr. Reserve before any user of the pool is
  // constructed.
  static void reserve(const Engine& engine, BufferPool& pool);
  static std::unique_ptr<Drafter> create(Engine& engine, BufferPool& pool);
};

}  // namespace edge_mtp
