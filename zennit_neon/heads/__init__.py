"""Clusterings as modules."""
