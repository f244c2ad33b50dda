"""What a revision certainly creates is read from its source."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from runner.tables import created_by, left_by


def written(tmp_path: Path, body: str) -> str:
    path = tmp_path / "revision.py"
    path.write_text("from alembic import op\n\ndef upgrade():\n" + textwrap.indent(textwrap.dedent(body), "    "))
    return str(path)


@pytest.mark.parametrize(
    ("body", "certain"),
    [
        ('op.create_table("a")\nop.create_table("b", schema="s")\n', ("a", "s.b")),
        ('op.create_table("a", schema=None)\n', ("a",)),
        ('table = op.create_table("a")\n', ("a",)),
        ('if True:\n    op.create_table("a")\n', ()),
        ('op.create_table("a", if_not_exists=True)\n', ()),
        ('op.create_table("a", **options)\n', ()),
        ('op.create_table("a", schema=SCHEMA)\n', ()),
        ("op.create_table(NAME)\n", ()),
        ('if done():\n    return\nop.create_table("a")\n', ()),
        ('op.execute("DROP TABLE a")\nop.create_table("a")\n', ()),
        ('if "a" not in op.get_bind().tables:\n    pass\nop.create_table("a")\n', ()),
        ('other.create_table("a")\n', ()),
    ],
)
def test_only_a_table_that_is_created_in_any_case_is_certain(tmp_path: Path, body: str, certain: tuple[str]) -> None:
    assert created_by(written(tmp_path, body)).certain == certain


def test_what_is_dropped_in_whatever_case_is_gone(tmp_path: Path) -> None:
    body = 'if old():\n    op.drop_table("a")\nop.rename_table("b", "c")\nop.create_table("d")\n'
    made = created_by(written(tmp_path, body))
    assert (made.certain, made.mentioned, made.gone) == (("d",), ("d",), {"a", "b"})


@pytest.mark.parametrize("text", ["def upgrade(:\n", "", "def upgrade(): pass\n"])
def test_a_file_without_an_upgrade_creates_nothing(tmp_path: Path, text: str) -> None:
    path = tmp_path / "revision.py"
    path.write_text(text)
    assert created_by(str(path)).certain == ()
    assert created_by(str(tmp_path / "missing.py")).mentioned == ()


@pytest.mark.parametrize(
    ("body", "made"),
    [
        ('op.create_table("a")\nop.execute("INSERT INTO a VALUES (1)")\n', ("a",)),
        ('op.create_table("a", if_not_exists=True)\n', ("a",)),
        ('op.create_table("a", **options)\n', ()),
        ('if True:\n    op.create_table("a")\n', ()),
        ('if done():\n    return\nop.create_table("a")\n', ()),
    ],
)
def test_a_table_that_is_there_afterwards_in_any_case_is_made(tmp_path: Path, body: str, made: tuple[str]) -> None:
    assert created_by(written(tmp_path, body)).made == made


@pytest.mark.parametrize(
    ("later", "left"),
    [
        ("pass\n", {"a", "b"}),
        ('op.drop_table("a")\n', {"b"}),
        ('op.rename_table("a", "c")\n', {"b"}),
        ('op.execute("DROP TABLE a")\n', {"b"}),
        ('op.execute("alter table a rename to c")\n', {"b"}),
        ('op.execute("DROP INDEX a")\n', {"a", "b"}),
        ('op.drop_index("i", table_name="a")\nop.drop_column("b", "c")\n', {"a", "b"}),
        ('for name in ["a"]:\n    op.drop_table(name)\n', {"b"}),
        ('a = sa.Table("a", meta)\na.drop(op.get_bind())\n', {"b"}),
        ('"""rename a"""\nop.drop_table("c")\n', {"a", "b"}),
    ],
)
def test_what_may_be_gone_again_is_not_left(tmp_path: Path, later: str, left: set[str]) -> None:
    (tmp_path / "later").mkdir()
    first = written(tmp_path, 'op.create_table("a")\nop.create_table("b")\n')
    then = written(tmp_path / "later", later)
    assert set(left_by([("r1", first), ("r2", then)])) == left


def test_the_way_down_says_nothing_of_the_way_up(tmp_path: Path) -> None:
    path = tmp_path / "revision.py"
    path.write_text(
        'def upgrade():\n    op.create_table("a")\n\ndef downgrade():\n    for t in ["a"]:\n        op.drop_table(t)\n'
        '    op.create_table("z", schema="down")\n'
    )
    assert left_by([("r1", str(path))]) == {"a": "r1"}
    assert created_by(str(path)).schemas == ()


def test_every_schema_that_is_named_is_told_also_one_that_is_computed(tmp_path: Path) -> None:
    body = 'op.add_column("t", column, schema="s")\nop.drop_table("t", schema=OTHER)\nop.drop_table("u", schema=None)\n'
    assert created_by(written(tmp_path, body)).schemas == ("s", "OTHER")


@pytest.mark.parametrize(
    ("body", "idle"),
    [("pass\n", True), ('"""A merge."""\n', True), ("...\n", True), ("op.f()\n", False), ("x = op.f()\npass\n", False)],
)
def test_a_revision_without_a_statement_is_idle(tmp_path: Path, body: str, idle: bool) -> None:
    assert created_by(written(tmp_path, body)).idle is idle
