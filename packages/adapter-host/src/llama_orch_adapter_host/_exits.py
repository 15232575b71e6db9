"""Whose wish it is that the process ends: its operator's, or that of a stranger's code which had better not ask."""

from types import FrameType


def is_strangers(error: BaseException) -> bool:
    """Whether it is a `SystemExit` of the code that it came out of, and not of a signal's handler.

    `sys.exit()` in a handler of SIGTERM comes out of whatever ran at that moment. Only the handler of a signal is given
    the frame that called it, the one before its own in the traceback.
    """
    return isinstance(error, SystemExit) and not _from_a_handler(error)


def _from_a_handler(error: BaseException) -> bool:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        if _was_given(trace.tb_next.tb_frame, trace.tb_frame):
            return True
        trace = trace.tb_next
    return False


def _was_given(frame: FrameType, caller: FrameType) -> bool:
    return any(
        value is caller or (isinstance(value, tuple) and any(each is caller for each in value))
        for value in frame.f_locals.values()
    )
