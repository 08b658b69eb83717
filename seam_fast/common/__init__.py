"""What every room may use: arguments, cores and threads, random numbers, progress, CUDA graphs. Knows no other room."""
