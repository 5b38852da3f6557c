// A trial of an engine: each kind of pass on a fixed text, and what it costs.
#pragma once

#include "engine.h"
#include "trial.h"

namespace edge_mtp {

// Runs prefill (three calls at least), decode, draft and verify on a session of its own, then times them.
Trial try_out(Engine& engine);

}  // namespace edge_mtp
