"""Networks image by image: what they detect, what of it is right, and how sure accuracies are."""
