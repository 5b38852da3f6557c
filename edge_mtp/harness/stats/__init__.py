"""Statistics: intervals and tests, each tried by simulation. Nothing here knows what was measured."""
