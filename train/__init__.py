"""Training of ReID models: the command `msinet-train`, and the pieces it is made of."""
