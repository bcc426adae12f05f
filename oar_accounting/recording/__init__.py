"""Recording: what a pass reads of OAR, works out and posts, and what keeps that true."""
