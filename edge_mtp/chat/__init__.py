"""From a conversation to token ids, and back from the ids of a reply to its text and thoughts."""
