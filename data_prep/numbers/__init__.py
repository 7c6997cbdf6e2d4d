"""What is summed over values, part by part, and merges: moments, and what rounding costs. Knows no files."""
