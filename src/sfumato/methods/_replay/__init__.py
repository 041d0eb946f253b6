"""Record one run of a network and repeat only the operations that depend on a random mask. Private."""
