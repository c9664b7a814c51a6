"""Nothing of a run is lost: its state, the checkpoints on disk, and when they are written and read."""
