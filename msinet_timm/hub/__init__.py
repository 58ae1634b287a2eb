"""Weights on their way: model folders, cards, conversion, publication and verification."""
