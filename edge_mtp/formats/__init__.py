"""What files and wires look like: bundles, requests and their traces, tool calls, grammars. Nothing here runs."""
