"""Data sets: one file an on-disk layout, each yielding the same sample."""
