"""Same lock, same bytes: rebuild from the lock in a fresh place and compare it with what exists."""
