"""The truth, in NumPy: what every output must be, to the bit. It knows no hardware."""
