// What a controller decided before a step, and the estimates that made it; all of it goes into the trace.
#pragma once

#include <cstdint>

namespace edge_mtp {

struct Plan {
  // K to ask of the drafter: one of the bundle's draft lengths, or 0 = a plain step. Without a drafter: the most free
  // drafts (look-up, grammar) that are welcome. Free drafts may be proposed beside any plan; trim() judges them.
  int32_t drafts = 0;
  bool explore = false;        // taken to learn, not because it is believed best
  float tokens_per_ms = 0.0f;  // believed of this plan; 0 = nothing known yet
  float plain_tokens_per_ms = 0.0f;
};

}  // namespace edge_mtp
