"""These tests need an image, which tests/image/run.sh builds; without one they are not collected."""

import os

collect_ignore = [] if "TEST_IMAGE" in os.environ else ["test_image.py"]
