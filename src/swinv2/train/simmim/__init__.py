"""Pre-training without labels: what is hidden, what is learnt from it, and the picture of it (arXiv 2111.09886)."""
