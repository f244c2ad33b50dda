"""These tests need an image, which tests/image/run.sh builds; without one they are not collected."""

import os

import pytest

collect_ignore = [] if "TEST_IMAGE" in os.environ else ["test_image.py", "test_pods.py"]


@pytest.fixture(scope="session")
def image() -> str:
    """The image under test."""
    return os.environ["TEST_IMAGE"]
