"""Metrics: what they are, what they are composed of, and how much of each a job held. Pure."""
