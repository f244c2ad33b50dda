"""What a revision certainly creates is read from its source."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from runner.tables import created_by


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
