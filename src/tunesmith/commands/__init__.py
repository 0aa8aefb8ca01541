"""Groups of commands, which live on the command line alone."""
