"""``python -m seam_fast`` is the ``seam-fast`` command."""

import sys

from .cli.main import main

sys.exit(main())
