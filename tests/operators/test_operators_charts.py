"""operators/charts.py: columns made of letters."""

from operators.charts import columns


def test_a_column_is_as_high_as_its_share_of_the_greatest_value():
    assert columns([1, 8, 12, 16], height=2, most=16) == ["  ▄█", "▁███"]


def test_a_value_that_is_there_has_a_mark_and_none_has_none():
    assert columns([None, 0, -5, 0.001], height=1, most=10) == [" ▁▁▁"]


def test_a_value_above_the_greatest_stays_in_its_lines():
    assert columns([99], height=3, most=10) == ["█", "█", "█"]


def test_no_values_are_empty_lines():
    assert columns([], height=2, most=1) == ["", ""]
