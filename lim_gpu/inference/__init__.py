"""What trained networks make of a store or of new images: their features, and their predictions."""
