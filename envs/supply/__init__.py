"""Where an environment came from: its components, SBOMs, provenance, signatures, and known vulnerabilities."""
