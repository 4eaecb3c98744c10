"""Figures and the self-contained HTML page, from the files of run folders alone."""
