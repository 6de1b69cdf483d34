"""Analytics: exports of a mode's published views to files."""
