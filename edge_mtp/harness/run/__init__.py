"""The loops that ask: benchmarks, tool-call suites, quality, checks and plans."""
