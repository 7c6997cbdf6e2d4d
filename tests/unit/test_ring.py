"""Buffers: a fixed number, used again, and not before copies from them have ended."""

from unittest.mock import Mock

import torch

from trainer.data.ring import Buffer, Ring, Scratch


def test_a_ring_has_room_for_the_largest_shape() -> None:
    ring = Ring(1, shapes=[(2, 3), (4, 4)], pin=False)
    assert ring.acquire().view((4, 4)).shape == (4, 4)


def test_a_ring_runs_out_until_a_buffer_comes_back() -> None:
    ring = Ring(2, shapes=[(1,)], pin=False)
    first, _ = ring.acquire(), ring.acquire()
    assert not ring.has_free
    ring.release([first])
    assert ring.acquire() is first


def test_a_buffer_waits_for_the_copies_from_it() -> None:
    copied = Mock()
    Buffer(torch.empty(1), copied=copied).wait_until_free()
    copied.synchronize.assert_called_once_with()


def test_scratch_is_used_again_once_it_is_large_enough() -> None:
    scratch = Scratch()
    scratch.view(100)[:] = b"x" * 100
    assert bytes(scratch.view(60)) == b"x" * 60
    assert len(scratch.view(200)) == 200
