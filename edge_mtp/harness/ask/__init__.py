"""What is asked (items, suites), of whom (arms), and who answers (engines)."""
