"""What every part needs and no part owns: command line, errors, files, signals, processes. Needs no torch."""
