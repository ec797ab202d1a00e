"""The steps of a recipe: named by what they do, run once, stored and read back."""
