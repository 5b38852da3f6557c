// A program that runs beside this one and answers on its standard output.
#pragma once

#include <string>
#include <vector>

namespace edge_mtp {

struct Answer {
  std::string output;
  std::string fault;  // how it ended, if not with exit status 0: "it crashed (signal 11)"; empty = well
};

// Runs a command and waits for its end, at most `seconds`, then kills it. Its standard error goes nowhere.
Answer ask(const std::vector<std::string>& command, int seconds);

}  // namespace edge_mtp
