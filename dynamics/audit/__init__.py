"""Is a checkpoint series sound: facts read from it, and checks made on them."""
