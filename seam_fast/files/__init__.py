"""Writing files atomically, and reading files of tensors without running code from them."""
