"""Figures and pages, drawn from the tables of a run; nothing is computed here."""
