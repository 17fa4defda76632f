"""A batch of points to relevance: by the closed form of a head, or through a whole model."""
