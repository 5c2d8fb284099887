"""Documents as passages: nothing is lost, everything has its place."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from operators.documents import Passage, documents_in, pages_of, passages, read_document
from sage_flow.errors import InputError

LINES = st.lists(
    st.one_of(
        st.sampled_from(["", "", "# One", "## Two", "### Three #", "```", "~~~", "#no heading", "    indented code"]),
        st.text("ab \t|-", max_size=30),
    ),
    max_size=25,
)


def cut(text, length=600):
    return list(passages(text, "a.md", length))


def visible(text):
    return re.sub(r"\s", "", text)


@given(LINES, st.integers(1, 40))
@example(["```", "aaaa", "", ""], 4)
@example(["     " + "a" * 9], 3)
def test_every_character_is_in_one_passage_that_is_short_enough_and_names_its_line(lines, length):
    found = cut("\n".join(lines), length)
    with_headings = {line for line in lines if re.match(r"#{1,3} ", line)}
    kept = visible("".join(line for line in lines if line not in with_headings))
    quoted = visible("".join(passage.text for passage in found))
    assert len(quoted) >= len(kept)  # a heading between fences is text
    if not {"```", "~~~"} & {line.strip()[:3] for line in lines}:
        assert quoted == kept
    for passage in found:
        assert visible(passage.text)
        assert len(passage.text) <= length
        assert passage.text.split("\n")[0] in lines[passage.line - 1]


def test_paragraphs_stay_whole_and_share_a_passage_if_they_are_short():
    text = "one\n\ntwo\nlines\n\n" + "long " * 8 + "\n\nend"
    assert [passage.text for passage in cut(text, 45)] == ["one\n\ntwo\nlines", "long " * 7 + "long\n\nend"]


def test_paragraphs_that_fit_exactly_share_a_passage():
    assert [passage.text for passage in cut("aaa\n\nbb", 7)] == ["aaa\n\nbb"]
    assert [passage.text for passage in cut("aaa\n\nbb", 6)] == ["aaa", "bb"]


def test_a_long_line_is_cut_at_a_space_if_it_has_one():
    assert [passage.text for passage in cut("abc def ghijklmnop", 7)] == ["abc def", "ghijklm", "nop"]


def test_headings_tell_what_is_above_a_passage():
    text = "before\n# Tea\n## Green ##\nleaves\n### Sencha\nsteamed\n## Black\nripe\n# Milk\nwhite"
    assert [(passage.heading, passage.text, passage.line) for passage in cut(text)] == [
        ("", "before", 1),
        ("Tea > Green", "leaves", 4),
        ("Tea > Green > Sencha", "steamed", 6),
        ("Tea > Black", "ripe", 8),
        ("Milk", "white", 10),
    ]


@pytest.mark.parametrize("fence", ["```", "~~~"])
def test_code_is_one_paragraph_and_its_comments_are_no_headings(fence):
    text = f"# Use\n{fence}python\nimport tea\n\n# boil\n{fence}\n# Next\nwait"
    assert cut(text) == [
        Passage(f"{fence}python\nimport tea\n\n# boil\n{fence}", "a.md", 2, "Use"),
        Passage("wait", "a.md", 8, "Next"),
    ]


def test_lines_count_as_editors_count_them():
    assert [passage.line for passage in cut("a\x0cb\u2028c\r\n\r\n# T\r\nd\r\n")] == [1, 4]


def test_a_passage_has_at_least_one_character():
    with pytest.raises(ValueError, match="length must be at least 1 character, not 0"):
        cut("text", 0)


# --- files ------------------------------------------------------------------------------------------------


def test_documents_are_found_below_the_folder_and_hidden_ones_are_not(tmp_path):
    for file in ("b.md", "a.TXT", "deep/er/c.rst", "code.py", ".git/d.md", "deep/.hidden.md", ".venv/x/e.txt"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("text")
    (tmp_path / "folder.md").mkdir()
    assert documents_in(tmp_path) == ["a.TXT", "b.md", "deep/er/c.rst"]


def test_a_hidden_folder_may_be_named(tmp_path):
    (tmp_path / ".notes").mkdir()
    (tmp_path / ".notes" / "a.md").write_text("text")
    assert documents_in(tmp_path / ".notes") == ["a.md"]


def test_the_pages_of_a_project_are_its_readme_and_its_docs(tmp_path):
    assert pages_of(tmp_path) == []
    for file in ("docs/deep/b.md", "docs/a.md", "docs/a.txt", "README.md", "CHANGELOG.md"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("text")
    assert pages_of(tmp_path) == ["README.md", "docs/a.md", "docs/deep/b.md"]


def test_a_folder_that_cannot_be_used_is_told(tmp_path):
    with pytest.raises(InputError, match=r"none: no such folder; a relative path starts at /.*; name a folder of"):
        documents_in(tmp_path / "none")
    (tmp_path / "a.py").write_text("text")
    with pytest.raises(InputError, match=r"a\.py: is a file; name a folder of documents"):
        documents_in(tmp_path / "a.py")
    with pytest.raises(InputError, match=r"there is no document in this folder \(\.md, \.rst, \.txt\)"):
        documents_in(tmp_path)


def test_a_document_that_cannot_be_read_is_told_with_its_line(tmp_path):
    (tmp_path / "latin.md").write_bytes("one\ntwo\nGrün".encode("latin-1"))
    with pytest.raises(InputError, match=r"latin\.md:3: is not utf-8; convert the file"):
        read_document(tmp_path, "latin.md")
    with pytest.raises(InputError, match=r"gone\.md: No such file or directory"):
        read_document(tmp_path, "gone.md")


def test_a_byte_order_mark_is_no_text(tmp_path):
    (tmp_path / "a.md").write_bytes(b"\xef\xbb\xbf# Title\ntext")
    assert [passage.heading for passage in passages(read_document(tmp_path, "a.md"), "a.md")] == ["Title"]
