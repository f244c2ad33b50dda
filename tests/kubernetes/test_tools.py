"""The tools are the real ones."""

import pytest
from kubernetes_validate.utils import all_versions

from tests.kubernetes import tools


@pytest.mark.parametrize("tool", tools.VERSIONS)
def test_each_tool_is_the_one_that_its_name_says(tool: str) -> None:
    assert tools.version(tool).startswith(tools.VERSIONS[tool][1])


def test_the_schemas_are_those_of_kubernetes_1_27_and_later() -> None:
    minors = [int(version.split(".")[1]) for version in all_versions()]
    assert set(range(27, 38)) <= set(minors)
