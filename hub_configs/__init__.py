"""The configurations of all published weights, as JSON files."""
