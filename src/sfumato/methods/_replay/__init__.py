"""Record one run of a network, and replay only the operations that depend on random masks. Private."""
