"""The rows: each takes the ground it stands on and returns what it found."""
