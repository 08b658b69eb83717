"""One module for each verb of ``seam-fast``: ``add_to`` adds its parser, ``run`` does it and returns the exit code."""
