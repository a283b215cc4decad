"""How fast things are here, measured: `fmlib bench train`, `attention`, `loader`, `epoch`, `fuse`; and notebook 09."""
