"""How good a segmentation is: as numbers (`metrics`), and as an HTML page with curves and pictures (`report`)."""
