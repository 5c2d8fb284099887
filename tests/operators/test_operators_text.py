"""Words of a text."""

import pytest

from operators.text import words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("  1 + 2 = 3 ", []),
        ("One, two;three", ["one", "two", "three"]),
        ("don't it’s l'été", ["don't", "it’s", "l'été"]),
        ("well-known - end-", ["well-known", "end"]),
        ("'quoted' --option", ["quoted", "option"]),
        ("snake_case x2y", ["snake", "case", "x", "y"]),
        ("ÄRGER Привет", ["ärger", "привет"]),
    ],
)
def test_words_are_runs_of_letters(text, expected):
    assert words(text) == expected
