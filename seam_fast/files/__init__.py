"""Files that are whole or not there at all, and files of tensors that cannot execute anything."""
