"""An invented OAR server of three months, to try things on."""
