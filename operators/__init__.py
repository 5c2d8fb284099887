"""Operators that jobs share: text, statistics, ranking; documents, their retrieval and dialogues about them."""
