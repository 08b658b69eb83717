"""The SEAM loop: which modules are trained, on what, side by side with which others, and which epoch is kept."""
