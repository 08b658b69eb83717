"""The op and the training engine on a GPU, and how long whole runs of the defaults take there."""
