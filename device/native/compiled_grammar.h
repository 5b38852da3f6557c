// A grammar compiled for a vocabulary.
#pragma once

#include <xgrammar/compiler.h>

#include <memory>

#include "vocabulary.h"

namespace edge_mtp {

struct CompiledGrammar {
  std::shared_ptr<const Vocabulary> vocabulary;
  xgrammar::CompiledGrammar compiled;
};

}  // namespace edge_mtp
