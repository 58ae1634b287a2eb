"""What `msinet-data` does to data sets."""
