// Texts that a controller and a prefill plan are restored from, and steps that they are told of.
#include <cmath>
#include <string>

#include "controller.h"
#include "fuzz.h"
#include "prefill_plan.h"

namespace {

const edge_mtp::Capabilities kBundles[] = {
    {{1, 2, 3, 4, 5, 6, 7}, {2, 3, 4, 5, 6, 7, 8}}, {{3}, {4}}, {{}, {8}}, {{}, {}}};

void drive(edge_mtp::Controller& controller, Operands& operands) {
  controller.begin();
  while (!operands.empty()) {
    const int32_t position = operands.below(4096), most = operands.below(32);
    const edge_mtp::Plan plan = controller.plan(position, most);
    must(plan.drafts >= 0 && plan.drafts <= most, "a plan drafts no more than allowed");
    edge_mtp::Proposal proposal;
    for (int32_t i = operands.below(edge_mtp::kMaxDrafts + 1); i > 0; --i) {
      proposal.add(operands.below(100), static_cast<float>(operands.take<uint8_t>()) / 255.0f,
                   static_cast<edge_mtp::Source>(operands.below(edge_mtp::kSources)));
    }
    const int32_t kept = controller.trim(position, proposal);
    must(kept >= 0 && kept <= proposal.count, "a part of the proposal is verified");
    const int32_t accepted = operands.below(proposal.count + 1);
    controller.observe(position, plan.drafts, operands.below(10), proposal, accepted, operands.take<float>(),
                       operands.take<float>());
    if (operands.below(16) == 0) controller.calibrate(position, operands.below(10), operands.below(9), operands.take<double>());
  }
}

}  // namespace

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Operands operands(data, size);
  const uint8_t choice = operands.take<uint8_t>();
  edge_mtp::Controller controller(kBundles[choice % 4]);
  const std::string text(operands.rest());
  if (choice % 8 < 4) {
    const std::string before = controller.save();
    if (controller.restore(text)) {
      edge_mtp::Controller other(kBundles[choice % 4]);
      must(other.restore(controller.save()), "what was saved can be restored");
    } else {
      must(controller.save() == before, "a refused text changes nothing");
    }
    edge_mtp::PrefillPlan prefill({16, 32, 128});
    prefill.restore(text);
    int32_t cached = 0;
    for (const int32_t rows : prefill.chunks(300, 0, 512)) cached += rows;
    must(cached >= 300, "the chunks hold the prompt");
    const uint8_t steps[] = {9, 1, 7, 0, 3, 0, 200, 1, 2, 0, 1, 0, 5, 5, 5, 5, 66, 0, 0, 68, 1, 1};
    Operands few(steps, sizeof steps);
    drive(controller, few);
  } else {
    drive(controller, operands);
    edge_mtp::Controller other(kBundles[choice % 4]);
    must(other.restore(controller.save()), "what was learned can be restored");
  }
  return 0;
}
