"""What travels between subtasks and how: frames, codecs, the exchange."""
