"""Figures and self-contained HTML pages, made only from the files of run folders."""
