"""The ``seam-fast`` command, its reports and pictures. The only room that uses argparse and matplotlib."""
