"""Karma of real jobs: what is read for it, and the answers. The arithmetic is in `policies`."""
