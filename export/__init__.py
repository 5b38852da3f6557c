"""Checkpoint pair to bundle: graphs, quantized sections, `.litertlm` file."""
