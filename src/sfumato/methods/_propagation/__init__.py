"""How mean and variance pass through the operations of a network."""
