"""The views that a mode publishes: what there is, files of it, and who may look."""
