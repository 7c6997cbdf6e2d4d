"""What one rank cannot read ends all of them, at the same step, each with the reason."""

from pathlib import Path

from tests.integration.tiny_run import logged_steps, write_tiny_run
from tests.integration.trainings import Workshop


def test_a_window_that_one_rank_cannot_read_ends_every_rank_with_its_name(tmp_path: Path) -> None:
    config = write_tiny_run(tmp_path, name="broken", targets=tmp_path / "targets")
    shard = tmp_path / "data" / "shard-0"
    data = bytearray(shard.read_bytes())
    data[len(data) // 3] ^= 1  # one bit of one frame
    shard.write_bytes(data)
    with Workshop(tmp_path).ranks("trainer", "train", str(config), size=2) as ranks:
        ended = [rank.end() for rank in ranks]
    assert [rank.code for rank in ended] == [1, 1]
    said = [rank.err.splitlines()[-1] for rank in ended]
    place = "dataset waves, shard "
    assert all(place in line and "crc32c" in line for line in said), said
    assert sorted("so this rank ends too" in line for line in said) == [False, True], said
    assert len(logged_steps(tmp_path)) < 30
