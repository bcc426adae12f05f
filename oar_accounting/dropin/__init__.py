"""In the place of OAR's own: the only room that writes OAR's tables, a command and two columns."""
