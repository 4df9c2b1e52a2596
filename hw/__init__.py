"""The silicon, in Amaranth. What is outside ``models`` synthesizes."""
