"""The commands `msinet-data` and `msinet-hub`."""
