"""The reduce stage: from a store to a selection, one unit after another, resumable."""
