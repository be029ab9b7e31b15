"""One MLflow run: parameters, metrics, files and tags of a stage, and how the run ends."""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pipeline.errors import DataError
from pipeline.tracking.provenance import provenance_tags
from pipeline.tracking.store import (
    connect,
    experiment_id,
    first_line,
    quiet,
    store_failures,
    store_name,
    tracking_errors,
    tracking_is_off,
)

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

_log = logging.getLogger(__name__)

_BATCH: Final = 100  # parameters or tags per call, MLflow's limit
_METRICS_AT_ONCE: Final = 1000  # numbers per call, MLflow's limit
_LONGEST_PARAM: Final = 6000  # characters, MLflow's limit
_DIGEST_LENGTH: Final = 36  # characters of a data set's digest, MLflow's limit
_TERMINATED: Final = 128 + signal.SIGTERM


class Run:
    """What a stage writes to MLflow.

    With tracking off every call does nothing. A store that fails after the run has started costs one warning;
    later calls do nothing, because a training of hours must not die with its server.

    Args:
        client: the open store; absent when tracking is off.
        run_id: the run in it.
    """

    def __init__(self, client: MlflowClient | None = None, run_id: str | None = None) -> None:
        self._client = client
        self._lost = client is None
        self.run_id = run_id

    @property
    def is_live(self) -> bool:
        """Whether calls still reach a store."""
        return not self._lost

    def log_params(self, values: Mapping[str, Any]) -> None:
        """Log settings that are not logged yet (parameters never change); nested keys are joined by dots."""
        flat = {name: str(value)[:_LONGEST_PARAM] for name, value in _flatten(values)}

        def log(client: MlflowClient, run_id: str) -> None:
            from mlflow.entities import Param

            known = client.get_run(run_id).data.params
            new = iter([Param(name, value) for name, value in flat.items() if name not in known])
            while batch := list(islice(new, _BATCH)):
                client.log_batch(run_id, params=batch)

        self._attempt(log)

    def log_metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Log numbers of one step, as many in a call as a server takes."""

        def log(client: MlflowClient, run_id: str) -> None:
            from mlflow.entities import Metric

            now_ms = int(time.time() * 1000)
            metrics = [Metric(name, float(value), now_ms, step or 0) for name, value in values.items()]
            for first in range(0, len(metrics), _METRICS_AT_ONCE):
                client.log_batch(run_id, metrics=metrics[first : first + _METRICS_AT_ONCE])

        self._attempt(log)

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """Copy a file, or a folder with all it holds, to the run's files.

        Args:
            path: what to copy.
            folder: where to, below the run's files; by default their top.
        """

        def log(client: MlflowClient, run_id: str) -> None:
            if path.is_dir():
                client.log_artifacts(run_id, str(path), artifact_path=f"{folder}/{path.name}".lstrip("/"))
            else:
                client.log_artifact(run_id, str(path), artifact_path=folder or None)

        if not path.exists():
            raise DataError(f"{path}: no such file to log")
        self._attempt(log)

    def set_tags(self, values: Mapping[str, str]) -> None:
        """Set tags, replacing those of the same name."""

        def log(client: MlflowClient, run_id: str) -> None:
            from mlflow.entities import RunTag

            client.log_batch(run_id, tags=[RunTag(name, str(value)) for name, value in values.items()])

        self._attempt(log)

    def end(self, status: str) -> None:
        """Close the run as `FINISHED`, `FAILED` or `KILLED`."""
        self._attempt(lambda client, run_id: client.set_terminated(run_id, status=status))

    def _attempt(self, log: Callable[[MlflowClient, str], None]) -> None:
        if self._lost or self._client is None or self.run_id is None:
            return
        try:
            with quiet():
                log(self._client, self.run_id)
        except store_failures() as failure:
            if getattr(failure, "error_code", "") == "INVALID_PARAMETER_VALUE":
                raise  # our mistake, not the store's
            self._lost = True
            _log.warning(
                "%s stopped answering (%s); from here on results are in the run folder only",
                store_name(),
                first_line(failure),
            )


@contextmanager
def start_run(
    *,
    experiment: str,
    name: str,
    stage: str,
    config: Path,
    data_digest: str,
    tags: Mapping[str, str] | None = None,
    resume_run_id: str | None = None,
) -> Iterator[Run]:
    """Open a run for the length of a `with` block; it ends FINISHED, FAILED (an error) or KILLED (a signal).

    SIGTERM inside the block becomes `SystemExit(143)`, so that the block can clean up and the run is closed.

    Args:
        experiment: name of the MLflow experiment, made when needed.
        name: name of the run.
        stage: DVC stage, e.g. `train@redcnn`.
        config: the settings file; its digest becomes a tag.
        data_digest: SHA-256 of the data; becomes a tag and the run's data set.
        tags: further tags.
        resume_run_id: a run to continue; when the store no longer has it, a new run starts.

    Raises:
        TrackingError: the store cannot be used.
    """
    if tracking_is_off():
        yield Run()
        return
    client = connect()
    all_tags = {**provenance_tags(stage, config, data_digest), **(tags or {})}
    if resume_run_id is not None and exists(client, resume_run_id):
        run = Run(client, resume_run_id)
        with quiet(), tracking_errors("resume the run"):
            client.update_run(resume_run_id, status="RUNNING")
        run.set_tags(all_tags)
    else:
        run = _create(client, experiment, name, all_tags, data_digest)
    with _sigterm_as_exit(), _ended(run):
        yield run


@contextmanager
def reopen_run(
    run_json: Path, *, experiment: str, name: str, stage: str, config: Path, data_digest: str
) -> Iterator[Run]:
    """Add to the finished run that `run_json` names, e.g. test scores to a training's run; its status stays.

    When the store no longer has that run (another machine, a new store), a new run stands in for it, tagged
    `dvc.restored=true` and `dvc.restored_from`; the next call finds that one again.

    Raises:
        DataError: `run_json` is missing or damaged.
        TrackingError: the store cannot be used.
    """
    run_id = _read_run_json(run_json)
    if tracking_is_off():
        yield Run()
        return
    client = connect()
    if run_id is not None and exists(client, run_id):
        yield Run(client, run_id)
        return
    restored = _find_restored(client, experiment, run_id) if run_id else None
    if restored is not None:
        yield Run(client, restored)
        return
    tags = {
        **provenance_tags(stage, config, data_digest),
        "dvc.restored": "true",
        "dvc.restored_from": run_id or "",
    }
    run = _create(client, experiment, name, tags, data_digest)
    with _sigterm_as_exit(), _ended(run):
        yield run


def write_run_json(run: Run, path: Path, **facts: Any) -> None:
    """Write the run's id, so that a later stage can reopen it, and facts beside it for people."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps({"run_id": run.run_id, **facts}) + "\n", encoding="utf-8")
    temporary.replace(path)


def _read_run_json(path: Path) -> str | None:
    try:
        run_id = json.loads(path.read_text(encoding="utf-8"))["run_id"]
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; train the model first") from None
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{path}: not a run file; train the model again") from None
    return None if run_id is None else str(run_id)


def _create(
    client: MlflowClient, experiment: str, name: str, tags: Mapping[str, str], data_digest: str
) -> Run:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    inside = experiment_id(client, experiment)
    with quiet(), tracking_errors("start a run"):
        run_id = str(client.create_run(inside, run_name=name, tags=dict(tags)).info.run_id)
        if data_digest:
            data = Dataset(
                "cases", data_digest[:_DIGEST_LENGTH], "local", json.dumps({"sha256": data_digest})
            )
            context = InputTag("mlflow.data.context", tags["dvc.stage"])
            client.log_inputs(run_id, [DatasetInput(data, [context])])
    return Run(client, run_id)


def exists(client: MlflowClient, run_id: str) -> bool:
    """Whether the store has this run, and it was not deleted."""
    from mlflow.exceptions import MlflowException

    with quiet(), tracking_errors("look for the run"):
        try:
            return bool(client.get_run(run_id).info.lifecycle_stage == "active")
        except MlflowException as absent:
            if absent.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return False
            raise


def _find_restored(client: MlflowClient, experiment: str, run_id: str) -> str | None:
    inside = experiment_id(client, experiment)
    with quiet(), tracking_errors("look for the run"):
        found = client.search_runs([inside], f"tags.`dvc.restored_from` = '{run_id}'", max_results=1)
    return str(found[0].info.run_id) if found else None


@contextmanager
def _ended(run: Run) -> Iterator[None]:
    try:
        yield
    except Exception:
        run.end("FAILED")
        raise
    except BaseException:  # SystemExit of SIGTERM, KeyboardInterrupt
        run.end("KILLED")
        raise
    run.end("FINISHED")


@contextmanager
def _sigterm_as_exit() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set signal handlers
        return

    def leave(*_: object) -> None:
        raise SystemExit(_TERMINATED)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, prefix=f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
