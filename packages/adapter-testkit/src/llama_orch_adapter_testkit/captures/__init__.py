"""What real engines sent, byte for byte: `load(engine, name)`, `names(engine)`, `streams(engine)`."""

from .._capture import Capture, load, names, streams

__all__ = ["Capture", "load", "names", "streams"]
