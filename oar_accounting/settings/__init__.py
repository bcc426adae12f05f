"""The settings: OAR's own, ours, passwords, and what OAR writes as Perl hashes."""
