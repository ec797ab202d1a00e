"""What happens while a study runs, and who hears of it: consoles, files, trackers, code of the user's."""
