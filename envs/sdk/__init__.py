"""What a vendor gives to its customers only: an image and an SDK folder, recorded by hash and kept in the cache."""
