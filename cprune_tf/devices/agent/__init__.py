"""Everything that runs on a device: numpy, TVM's runtime and LiteRT are all it needs."""
