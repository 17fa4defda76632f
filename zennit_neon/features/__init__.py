"""What a layer makes of images: maps of features, where they are, and points from them."""
