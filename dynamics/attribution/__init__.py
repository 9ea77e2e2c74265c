"""Attribution: what each position of an input contributed to a prediction."""
