"""From names of data sets to batches on their way to the model."""
