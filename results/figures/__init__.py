"""What a study found as pictures: for the report, for notebooks, as PNG."""
