"""The M step: networks, losses on labelled pixels only, augmentation, and the training loop."""
