"""Programs of the user's: their command lines, their runs, and the numbers that they print."""
