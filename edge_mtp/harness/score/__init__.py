"""What a right reply is, and what is wrong with another (docs/tool-call-errors.md)."""
