"""The commands of the command line, each beside its like; they hold no SQL."""
