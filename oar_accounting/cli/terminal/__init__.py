"""What all commands share: the options before them, how they print, and how they leave."""
