"""Data sets: generated shapes, COCO 2017 and any archive or folder in COCO's format, all prepared as one format."""
