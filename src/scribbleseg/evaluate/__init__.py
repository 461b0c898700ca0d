"""How good a segmentation is, as numbers (`metrics`) and as a page to look at (`report`)."""
