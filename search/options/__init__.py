"""What commands share: their options, and where they write to."""
