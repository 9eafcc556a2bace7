"""One file that carries an environment to a machine without a network: made by `write`, taken in by `load`."""
