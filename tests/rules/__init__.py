"""Rules that need no database: under a minute together."""
