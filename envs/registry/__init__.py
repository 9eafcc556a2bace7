"""Container registries: base images from them, images to and from them. Registry API v2 (OCI distribution)."""
