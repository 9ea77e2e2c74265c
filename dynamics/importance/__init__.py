"""What the model does with each token of its vocabulary, in frozen contexts of the corpus."""
