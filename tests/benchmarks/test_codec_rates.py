"""What each codec makes of turbulent fields, exact and rounded: size, cost, and rates of encoding and decoding.

    python -m tests.benchmarks.test_codec_rates        frames of 256x256, 4 channels

As an ordinary test it runs once, small, and asserts no time.
"""

import json
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np

from data_prep.contract.manifest import MANTISSA_BITS, Codec
from data_prep.contract.sample import FrameArray, Shuffle, decode_frame, encode_frame
from data_prep.numbers.rounding import Rounded, RoundingCost

NUM_CHANNELS = 4
CASES: tuple[tuple[Codec, int], ...] = (
    ("none", MANTISSA_BITS),
    ("blosc-lz4", MANTISSA_BITS),
    ("blosc-zstd", MANTISSA_BITS),
    ("blosc-lz4", 12),
    ("blosc-lz4", 10),
    ("blosc-zstd", 10),
)
"""(codec, kept bits)."""


@dataclass(frozen=True)
class Rate:
    """Of one core; of decoded bytes; medians over rounds that alternate between codecs."""

    codec: str
    kept_bits: int
    vrmse: float
    """What rounding to so many bits costs, the mean of all channels."""
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


def measure(frames: FrameArray, *, rounds: int) -> list[Rate]:
    """One row for each of `CASES`. `frames`: (time, channel, x, y)."""
    channels = tuple(map(str, range(NUM_CHANNELS)))
    values = {kept: Rounded.of(frames, (kept,) * NUM_CHANNELS) for _, kept in CASES}
    encoders = {(codec, kept): _encoder(values[kept].stored, codec, kept) for codec, kept in CASES}
    payloads = {case: encode() for case, encode in encoders.items()}
    seconds: dict[tuple[Codec, int], list[tuple[float, float]]] = {case: [] for case in CASES}
    for _ in range(rounds):
        for case, encode in encoders.items():
            decode = _decoder(payloads[case], case[0], out=np.empty_like(frames[0]))
            seconds[case].append((_seconds(encode), _seconds(decode)))
    rates = []
    for (codec, kept), stored in payloads.items():
        costs = RoundingCost.of(values[kept]).records(channels, (kept,) * NUM_CHANNELS).values()
        encoding, decoding = (statistics.median(column) for column in zip(*seconds[codec, kept], strict=True))
        vrmse = statistics.fmean(cost.vrmse or 0 for cost in costs) if costs else 0.0
        share, gigabytes = sum(map(len, stored)) / frames.nbytes, frames.nbytes / 1e9
        rates.append(Rate(codec, kept, vrmse, share, gigabytes / encoding, gigabytes / decoding))
    return rates


def _encoder(frames: FrameArray, codec: Codec, kept: int) -> Callable[[], list[bytes]]:
    shuffle: Shuffle = "shuffle" if kept == MANTISSA_BITS else "bitshuffle"
    return lambda: [encode_frame(frame, codec, shuffle) for frame in frames]


def _decoder(payloads: list[bytes], codec: Codec, *, out: FrameArray) -> Callable[[], None]:
    def decode() -> None:
        for payload in payloads:
            decode_frame(payload, codec, out=out)

    return decode


def _seconds(action: Callable[[], object]) -> float:
    """Of one core: others that use the machine meanwhile do not count."""
    start = time.thread_time()
    action()
    return time.thread_time() - start


def test_every_case_is_measured_and_both_compression_and_rounding_make_smaller() -> None:
    rates = {(rate.codec, rate.kept_bits): rate for rate in measure(turbulent_frame(64, seed=0)[np.newaxis], rounds=1)}
    assert tuple(rates) == CASES
    assert rates["none", MANTISSA_BITS].stored_share == 1
    assert rates["blosc-zstd", MANTISSA_BITS].stored_share < rates["blosc-lz4", MANTISSA_BITS].stored_share < 1
    assert rates["blosc-lz4", 10].stored_share < 0.55
    assert 0 < rates["blosc-lz4", 10].vrmse < 1e-3


if __name__ == "__main__":
    for rate in measure(np.stack([turbulent_frame(256, seed=seed) for seed in range(8)]), rounds=7):
        print(json.dumps({name: float(f"{v:.3g}") if isinstance(v, float) else v for name, v in asdict(rate).items()}))
