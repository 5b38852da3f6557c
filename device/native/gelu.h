// Gemma's activation function, for the instruction set that the including file is compiled for.
#pragma once

#include "lanes.h"

namespace edge_mtp {
namespace {

// x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))), as x times the logistic function of twice the tanh's argument.
inline Lanes gelu(Lanes x) {
  const Lanes twice = x * 1.5957691216f * fused(x * x, all(0.044715f), all(1.0f));
  const Words sign = Words{} + 0x80000000u, is_negative = (Words)(twice < 0.0f);
  const Lanes e = exp_of((Lanes)((Words)twice | sign));
  const Lanes above = (Lanes)((is_negative & (Words)e) | (~is_negative & (Words)all(1.0f)));
  return x * above / (1.0f + e);
}

}  // namespace
}  // namespace edge_mtp
