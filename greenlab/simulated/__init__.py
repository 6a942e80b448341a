"""A machine with known watts, to be put under the real Zeus and the real pynvml."""
