"""What happens to a recipe."""
