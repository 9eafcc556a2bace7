"""What verify checks, one question a file. A check gives findings; it never repairs."""
