"""Everything that runs on a device; it needs only numpy, TVM's runtime and LiteRT."""
