"""What a bundle does to speed and to tool calls: measured, compared, and said with the certainty that the data give."""
