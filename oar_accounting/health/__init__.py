"""How the accounting fares: what is set up, what is behind, what is wrong, and what mends it."""
