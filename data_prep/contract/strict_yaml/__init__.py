"""YAML files as people write them, checked strictly: what is wrong is said with file, line, path and nearest name."""
