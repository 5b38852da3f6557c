// Which accelerator a bundle runs on when the caller leaves the choice to us: the fastest one that computes what the
// CPU computes.
//
// An accelerator that cannot run a graph often ends the process. So each is tried in a child process, and what it found is
// remembered for this bundle, these libraries and this driver. Which one is the fastest depends on the acceptance of
// drafts. So the choice is made anew each time, for the acceptance that the texts so far had.
#pragma once

#include <string>

#include "engine.h"

namespace edge_mtp {

struct AcceleratorChoice {
  Accelerator taken = Accelerator::kCpu;
  std::string why;  // one line for a person
};

// `program` is edge_mtp_runner, which answers --try; empty = nothing is tried, and only what is remembered counts.
// `options.accelerator` has no meaning here. Throws Error on a bundle that cannot be read.
AcceleratorChoice choose_accelerator(const std::string& program, const std::string& bundle,
                                     const Engine::Options& options);

// What a child process finds out about options.accelerator, in the words that choose_accelerator() reads.
std::string try_accelerator(const std::string& bundle, const Engine::Options& options);

}  // namespace edge_mtp
