"""What can go wrong, in words for whoever reads the log."""


class DriverError(Exception):
    """The story could not be run: its data, the host, or a machine is not as it must be. One line."""


class StepFailed(Exception):
    """A step of the script did not hold."""


class TimedOut(StepFailed):
    """What was waited for did not come."""
