// The drafter: predicts the next K tokens from the hidden state of the target's last row.
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
  // Appends `count` (one of lengths()) drafts that may follow `token`, which is at `position` and not cached yet, to
  // `proposal`. A drafter may obey `bounds`, if given: it then makes only drafts that they allow, perhaps fewer, and
  // leaves them unchanged. Reads the operands `control` and `scalars` of the op edge_mtp.draft.
  virtual void draft(int32_t token, int32_t position, int32_t count, Bounds* bounds, Proposal& proposal) = 0;

  // The engine's drafter, on memory shared with the decoder, or nullptr. Call reserve() before any user of the pool is
  // constructed.
  static void reserve(const Engine& engine, BufferPool& pool);
  static std::unique_ptr<Drafter> create(Engine& engine, BufferPool& pool);
};

}  // namespace edge_mtp
