"""How an engine's error is told from an app's, where a worker says why it cannot begin."""

__all__ = ["engine_says", "is_of_engine"]


def engine_says(name: str, why: str) -> str:
    """The text of an EngineError. It goes where an app's errors go, too: into `AppNotImportable`."""
    return f"engine {name}: {why}"


def is_of_engine(worker_error: str) -> bool:
    """Whether why nothing runs is an engine's affair, and not that the app cannot be imported.

    The text says so, as `engine_says` made it: the journal keeps nothing but the text (`run.worker_error`),
    also of supervisors that are gone.
    """
    return worker_error.startswith("engine ")
