"""What a run tells people: tables for the log."""
