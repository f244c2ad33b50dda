"""``python -m runner``: the same as the console script."""

import sys

from alembic_job import main

sys.exit(main())
