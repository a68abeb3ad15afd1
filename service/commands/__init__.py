"""The commands of `structxlip`, one module each; they load heavy libraries only when they run."""
