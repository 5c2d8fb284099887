"""Operators that jobs share: text, statistics, ranking."""
