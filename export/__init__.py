"""Exports a checkpoint pair to a bundle: graphs, quantized sections, `.litertlm` file."""
