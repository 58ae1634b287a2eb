"""What a run leaves: its folder, its card, its measurements, and what goes to trackers."""
