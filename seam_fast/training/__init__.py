"""Trainers: they learn the scores of one module, each in its own way, all with the same results."""
