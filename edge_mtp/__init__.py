"""Gemma 4 with its Multi-Token Prediction drafter, on phones and edge boards."""
