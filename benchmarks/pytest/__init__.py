"""The same ways under pytest-benchmark, for a quick look while one changes a kernel."""
