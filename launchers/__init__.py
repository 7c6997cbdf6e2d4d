"""From a cluster description and a training command to running ranks, and to a watched run.

Renderers are pure: what `render` prints is what `submit` submits. Torch never gets imported here.
"""
