"""The environment in which the peers of the stream run, made once and reused: `.venv-peers` beside `.venv`.

None of them is needed by any test but the benchmark at full size, and some ask for versions that we must not have.

    python -m tests.benchmarks.peers_environment      makes it and prints the path of its interpreter
"""

from pathlib import Path

from tests.integration.own_environment import python_with

REQUIREMENTS = (
    *("zarrs==0.2.3", "tensorstore==0.1.86", "ml_dtypes==0.6.0"),
    *("litdata==0.2.76", "lightning-utilities==0.15.3", "obstore==0.12.1", "tifffile==2026.3.3"),
    *("boto3==1.44.8", "s3transfer==0.19.3", "requests==2.34.2", "certifi", "charset-normalizer", "idna", "urllib3"),
    *("mosaicml-streaming==0.13.0", "catalogue==2.0.10", "Brotli", "python-snappy", "cramjam", "zstd", "xxhash"),
)
"""What each of zarrs, tensorstore, litdata and mosaicml-streaming needs to read arrays from a disk."""


def peers_python() -> Path:
    """Raises EnvironmentMissingError."""
    return python_with(".venv-peers", REQUIREMENTS)


if __name__ == "__main__":
    print(peers_python())
