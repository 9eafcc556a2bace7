"""Conda: `lock.py` asks the real conda-lock, `link.py` installs its packages without any conda program."""
