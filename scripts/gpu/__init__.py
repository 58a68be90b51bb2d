"""What is proved and measured on a CUDA device; see `prove`."""
