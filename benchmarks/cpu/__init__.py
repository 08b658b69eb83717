"""The kinds of ``seam-fast bench``: the op, a training step, whole jobs and curves, all on the CPU."""
