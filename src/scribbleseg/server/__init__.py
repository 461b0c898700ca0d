"""The annotation page: a server on this machine, and the files that a browser needs to scribble on a data set."""
