"""How fast things are here, measured and printed as JSON: `fmlib bench train`, `loader`, `epoch`, `fuse`."""
