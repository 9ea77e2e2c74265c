"""Documents of text from files and data sets of many formats."""
