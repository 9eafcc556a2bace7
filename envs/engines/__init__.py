"""Where commands run: Docker Engine or this machine itself."""
