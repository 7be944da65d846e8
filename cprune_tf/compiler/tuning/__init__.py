"""The search for fast programs, and the pricing of tasks at other shapes."""
