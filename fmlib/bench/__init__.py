"""How fast things are here, measured and printed as JSON: `fmlib bench train`, `fmlib bench loader`, `fmlib bench fuse`."""
