"""What a trained detector is worth and where its loss lies: detections, AP and AR, counts, losses, examples."""
