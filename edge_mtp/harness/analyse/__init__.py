"""From a run's answers to figures, pairs of arms, and verdicts."""
