"""What the verbs of tasks.py do: each calls the wing, prints for people or machines, gives the exit code."""
