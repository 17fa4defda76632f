"""Heatmaps of clusters, matched with the masks of objects in images."""
