"""The library at work on a real OAR server, which runs on this machine for the length of a test."""
