"""One file a method, in the order of its paper."""
