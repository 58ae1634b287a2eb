"""What `msinet-eval` and its words `compare`, `pair` and `search` do."""
