"""The tiny pair: a Gemma 4 target and its drafter, small enough to train in an hour on two CPU cores.

`python -m edge_mtp.export.tiny.train --out DIR --seed 0` writes everything under `edge_mtp/tiny`.
"""

# Positions of the KV cache that the pair is exported with: its longest frozen prompt (346 tokens) and 128 more.
CONTEXT = 512
