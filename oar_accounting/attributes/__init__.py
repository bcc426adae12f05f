"""Who belongs where, and when: users and projects to laboratory, team, parent, anything.

A file (`csv_files`) is compared with what is recorded (`stored`); `warnings` are what may be meant
otherwise, and `memberships` answers who was where at which time.
"""
