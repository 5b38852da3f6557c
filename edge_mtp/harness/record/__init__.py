"""The file of a run: what was asked and answered, and how the run was made (docs/results.md)."""
