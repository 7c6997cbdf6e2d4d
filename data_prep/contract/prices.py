"""What object stores charge and serve: the one place that a forecast of a conversion or of a training takes them from.

Of S3 Standard in us-east-1, by its lists of 2025 and its guide to performance; other stores, regions and tiers differ.
Reading in the store's own region costs requests alone.
"""

PRICES = "S3 Standard, us-east-1, list prices of 2025"
DOLLARS_PER_PUT, DOLLARS_PER_GET = 0.005 / 1000, 0.0004 / 1000
DOLLARS_PER_GIGABYTE_MONTH = 0.023
DOLLARS_PER_GIGABYTE_OUT = 0.09
"""To the internet; the first 10 TB of a month."""
GETS_PER_SECOND_OF_A_PREFIX = 5500
"""At least so many are served of objects whose names begin alike; more prefixes serve more."""
FIRST_BYTE_SECONDS, REQUEST_MEGABYTES_PER_SECOND = 0.1, 90.0
"""Of one request: how long its first byte takes, at the better end, and how fast the rest comes."""
