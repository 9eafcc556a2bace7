"""The user's cache: what is in it, what must stay, what may go, and a store that is shared with others."""
