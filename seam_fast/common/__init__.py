"""What all other packages may use: checks of arguments, cores and threads, random numbers, progress, CUDA graphs."""
