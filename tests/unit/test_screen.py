"""What the child writes comes out in the same lines and the same order, however it is cut into chunks."""

from __future__ import annotations

from alembic_job.masking import Masker
from alembic_job.screen import _CHUNK, _Stream
from hypothesis import example, given
from hypothesis import strategies as st

MARK = b"\x1e0123456789abcdef01234567\x1e"
SECRET = "correct-horse-staple"

PIECES = st.one_of(
    st.sampled_from(
        [
            MARK,
            b"\n",
            b"\r",
            b"\r\n",
            b"\xff\xfe",
            b"\x00",
            MARK[:5],
            "né 😀".encode(),
            SECRET.encode(),
            b"x" * 3000,
            b"[SQL: INSERT\nVALUES ('bound')]\n",
        ]
    ),
    st.binary(max_size=8),
)


def shown(chunks: list[bytes], masker: Masker) -> list[str | None]:
    """Lines, and None for each mark, as the parent sees them."""
    stream = _Stream("stdout", -1, MARK, masker)
    found: list[str | None] = []

    def take() -> None:
        while True:
            found.extend(stream.take())
            if not stream.at_mark:
                return
            found.append(None)
            stream.pass_mark()

    for chunk in chunks:
        stream.feed(chunk)
        take()
    stream.ended = True
    take()
    return found


def knowing() -> Masker:
    masker = Masker()
    masker.add(SECRET)
    return masker


@given(pieces=st.lists(PIECES, max_size=6), cuts=st.lists(st.integers(0, 200), max_size=6))
@example(pieces=["é".encode() * 20, b"\n"], cuts=[1, 3])
@example(pieces=[b"a", MARK, b"b", MARK], cuts=[10, 11, 40])
def test_lines_and_marks_do_not_depend_on_the_chunks(pieces: list[bytes], cuts: list[int]) -> None:
    data = b"".join(pieces)
    borders = sorted({cut for cut in cuts if cut < len(data)})
    chunks = [data[start:end] for start, end in zip([0, *borders], [*borders, len(data)], strict=True)]
    assert shown(chunks, knowing()) == shown([data], knowing())


@given(before=st.integers(0, 20_000), after=st.integers(0, 20_000), chunk=st.integers(500, _CHUNK))
@example(before=5 * 1024 - 3, after=0, chunk=_CHUNK)
@example(before=5 * 1024 + 1024 - 3, after=9000, chunk=1000)
def test_a_secret_in_a_long_line_is_never_cut_in_two(before: int, after: int, chunk: int) -> None:
    data = b"x" * before + SECRET.encode() + b"y" * after
    for end in (b"", b"\n"):
        lines = shown([(data + end)[i : i + chunk] for i in range(0, len(data + end), chunk)], knowing())
        assert "".join(line or "" for line in lines) == "x" * before + "***" + "y" * after


@given(st.integers(1, 9), st.sampled_from(["x", "é", "😀", "\\"]))
def test_a_long_line_comes_in_pieces_and_nothing_of_it_is_lost(chunks: int, letter: str) -> None:
    data = letter.encode() * (_CHUNK * chunks // 3)
    lines = shown([data[i : i + _CHUNK] for i in range(0, len(data), _CHUNK)], Masker())
    assert "".join(line or "" for line in lines) == data.decode()
    assert max(len((line or "").encode()) for line in lines) <= 5 * 1024


def test_a_secret_that_is_told_after_the_output_was_read_is_hidden_all_the_same() -> None:
    masker = Masker()
    stream = _Stream("stdout", -1, MARK, masker)
    stream.feed(b"before\n" + MARK + SECRET.encode() + b"\n")
    assert stream.take() == ["before"]
    masker.add(SECRET)
    stream.pass_mark()
    assert stream.take() == ["***"]


def test_nothing_behind_a_mark_is_shown_before_the_mark_is_passed() -> None:
    stream = _Stream("stdout", -1, MARK, Masker())
    stream.feed(b"one\ntw" + MARK + b"o\n")
    assert (stream.take(), stream.at_mark) == (["one", "tw"], True)
    assert stream.take() == []
    stream.pass_mark()
    assert (stream.take(), stream.at_mark) == (["o"], False)


def test_the_beginning_of_a_line_waits_for_its_end() -> None:
    stream = _Stream("stdout", -1, MARK, Masker())
    stream.feed(b"one\ntw")
    assert stream.take() == ["one"]
    stream.feed(b"o\n")
    assert stream.take() == ["two"]


def test_of_a_progress_bar_the_last_state_is_shown() -> None:
    assert shown([b"10 %\r", b"20 %\r100 %\n", b"a\r\nb\r\r\n"], Masker()) == ["100 %", "a", "b"]


def test_a_progress_bar_without_an_end_shows_up_now_and_then_as_a_whole() -> None:
    bar = b"".join(b"\rcopied %6d rows" % n for n in range(10_000))
    lines = shown([bar[i : i + 100] for i in range(0, len(bar), 100)], Masker())
    assert 10 < len(lines) < 100
    assert all(line and len(line) == 18 for line in lines)
    assert lines[-1] == "copied   9999 rows"


def test_blank_lines_are_left_out_and_invalid_utf8_is_shown_as_bytes() -> None:
    assert shown([b"\n \n\t\nok\n\xff\x00\n"], Masker()) == ["ok", "\\xff\x00"]


def test_literals_in_a_statement_of_several_lines_are_hidden() -> None:
    text = b"x\n[SQL: INSERT INTO t\nVALUES ('bound')]\nend\n"
    for chunks in ([text], text.splitlines(keepends=True), [text[i : i + 1] for i in range(len(text))]):
        assert shown(chunks, Masker()) == ["x", "[SQL: INSERT INTO t", "VALUES (?)]", "end"]
