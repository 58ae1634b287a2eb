"""The network, its parts, its genotypes and its weights."""
