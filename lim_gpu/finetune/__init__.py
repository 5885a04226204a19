"""Fine-tuning on labelled images, and its scores: data, splits, two phases, metrics, results."""
