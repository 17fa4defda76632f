"""Zennit's rules with all that does not depend on relevance computed once."""
