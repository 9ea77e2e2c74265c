"""Importance of each token for the model, in frozen contexts of the corpus, and norm surgery."""
