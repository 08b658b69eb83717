"""``python -m seam_fast`` is the ``seam-fast`` command."""

import sys

from .cli import main

sys.exit(main())
