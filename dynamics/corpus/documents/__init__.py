"""Files and data sets of any format: from bytes to documents of text."""
