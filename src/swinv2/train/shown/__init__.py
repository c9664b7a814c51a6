"""What a run shows: the lines before and during it, and the files after it."""
