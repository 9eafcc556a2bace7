"""`invoke init FILE`: what a person already has (a lock or a list of packages) becomes a spec."""
