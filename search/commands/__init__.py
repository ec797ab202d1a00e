"""The commands of the command line, each in a file of its name or with its kin."""
