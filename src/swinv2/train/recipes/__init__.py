"""What is asked of a run: the settings, the rules that choose those left open, and the published ones as YAML."""
