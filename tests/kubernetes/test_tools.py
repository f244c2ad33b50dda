"""The tools are the real ones."""

import pytest

from tests.kubernetes import tools


@pytest.mark.parametrize("tool", tools.VERSIONS)
def test_each_tool_is_the_one_that_its_name_says(tool: str) -> None:
    assert tools.version(tool).startswith(tools.VERSIONS[tool][1])
