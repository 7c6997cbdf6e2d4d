"""What each codec makes of turbulent fields: stored size, and rates of encoding and decoding on one core.

    python -m tests.benchmarks.test_codec_rates        frames of 256x256, 4 channels

As an ordinary test it runs once, small, and asserts no time.
"""

import json
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import get_args

import numpy as np

from data_prep.contract.manifest import Codec
from data_prep.contract.sample import FrameArray, decode_frame, encode_frame

NUM_CHANNELS = 4


@dataclass(frozen=True)
class Rate:
    """Of one codec. Rates are of decoded bytes, medians over rounds that alternate between codecs."""

    codec: str
    stored_share: float
    encode_gigabytes_per_second: float
    decode_gigabytes_per_second: float


def turbulent_frame(size: int, *, seed: int) -> FrameArray:
    """(channel, x, y): random phases with the energy spectrum k**(-5/3) of turbulence, on a mean of 1."""
    wave = np.hypot(np.fft.fftfreq(size)[:, np.newaxis], np.fft.rfftfreq(size)) * size
    amplitude = np.where(wave > 0, np.maximum(wave, 1), np.inf) ** (-(5 / 3 + 1) / 2)
    random = np.random.default_rng(seed)
    phases = np.exp(2j * math.pi * random.random((NUM_CHANNELS, *wave.shape)))
    fields = np.fft.irfft2(amplitude * phases, s=(size, size))
    return (1 + 0.3 * fields / fields.std()).astype(np.float32)


def measure(frames: list[FrameArray], *, rounds: int) -> list[Rate]:
    """One row for each codec."""
    payloads = {codec: [encode_frame(frame, codec) for frame in frames] for codec in get_args(Codec)}
    seconds: dict[tuple[str, str], list[float]] = {}
    out = np.empty_like(frames[0])
    for _ in range(rounds):
        for codec, stored in payloads.items():
            encoding = _seconds(lambda codec=codec: [encode_frame(frame, codec) for frame in frames])
            decoding = _seconds(lambda c=codec, s=stored: [decode_frame(one, c, out=out) for one in s])
            seconds.setdefault((codec, "encode"), []).append(encoding)
            seconds.setdefault((codec, "decode"), []).append(decoding)
    num_bytes = sum(frame.nbytes for frame in frames)
    return [
        Rate(
            codec,
            sum(map(len, stored)) / num_bytes,
            num_bytes / 1e9 / statistics.median(seconds[codec, "encode"]),
            num_bytes / 1e9 / statistics.median(seconds[codec, "decode"]),
        )
        for codec, stored in payloads.items()
    ]


def _seconds(action: Callable[[], object]) -> float:
    """Of one core: others that use the machine meanwhile do not count."""
    start = time.thread_time()
    action()
    return time.thread_time() - start


def test_every_codec_is_measured_and_compression_makes_smaller() -> None:
    rates = {rate.codec: rate for rate in measure([turbulent_frame(64, seed=0)], rounds=1)}
    assert rates["none"].stored_share == 1
    assert rates["blosc-zstd"].stored_share < rates["blosc-lz4"].stored_share < 1


if __name__ == "__main__":
    for rate in measure([turbulent_frame(256, seed=seed) for seed in range(8)], rounds=7):
        print(json.dumps({name: round(v, 3) if isinstance(v, float) else v for name, v in asdict(rate).items()}))
