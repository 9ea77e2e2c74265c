"""Attribution: the contribution of each position of an input to a prediction."""
