"""Bundles as registered models `ldct-<kind>`, and which of them is the champion."""

from __future__ import annotations

import logging
import math
import re
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit

from pipeline.errors import TrackingError
from pipeline.tracking.run import Run, exists
from pipeline.tracking.store import (
    connect,
    exclusive,
    project_root,
    quiet,
    store_is_missing,
    store_name,
    tracking_errors,
    tracking_is_off,
)

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

_log = logging.getLogger(__name__)

_ALIAS: Final = "champion"
_PHANTOMS_ALONE: Final = "phantoms_alone"
"""Tag of a version; `yes` where all that it learnt from was simulated."""
_CARD: Final = "card"
"""Folder of a model card among a run's files."""
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


def register_bundle(
    run: Run,
    bundle: Path,
    *,
    kind: str,
    model_hash: str,
    score: float,
    higher_is_better: bool,
    convention: str,
    data_digest: str,
    phantoms_alone: bool,
) -> str:
    """Keep a bundle as a version of the registered model `ldct-<kind>`; the same weights make no second one.

    The alias `champion` goes to the first version, and from then on only to one with a better score under the
    same convention and on the same data. Scores of another convention or other data cannot be compared: the
    champion stays, and one line says how to move the alias by hand. Only a champion that saw phantoms alone
    gives way to any model that saw more, and to any later one on other phantoms. A store that fails costs a
    warning: the bundle itself is safe in the model's folder.

    Args:
        run: the run that trained it; the bundle becomes one of its files.
        bundle: the weights file.
        kind: `denoiser`, `segmenter`, `vae`, `gan`, or one of them for another task, e.g. `denoiser-blur`.
        model_hash: digest of weights and header, 64 hexadecimal digits.
        score: best validation score.
        higher_is_better: direction of the score.
        convention: name of the score with its convention, e.g. `psnr/redcnn`.
        data_digest: SHA-256 of the data.
        phantoms_alone: whether all of the data was simulated.

    Returns:
        The version, or an empty text when tracking is off or the store failed.
    """
    if not run.is_live or run.run_id is None:
        return ""
    name = _registered_name(kind)
    tags = {
        "model_hash": model_hash,
        "score": repr(float(score)),
        "convention": convention,
        "data.sha256": data_digest,
        _PHANTOMS_ALONE: "yes" if phantoms_alone else "no",
    }
    try:
        return _register(name, run.run_id, bundle, tags, higher_is_better=higher_is_better)
    except TrackingError as failure:
        _log.warning("%s; the bundle is safe in %s, but not registered", failure, bundle)
        return ""


def log_card(run: Run, page: Path, pictures: Path) -> None:
    """Keep a model card among a run's files, so that the links from page to pictures hold.

    Args:
        run: whose files.
        page: the card, Markdown.
        pictures: the folder of its pictures, somewhere below the page's own.
    """
    run.log_artifact(page, _CARD)
    run.log_artifact(pictures, f"{_CARD}/{pictures.parent.relative_to(page.parent).as_posix()}")


def describe_bundle(
    run: Run, *, kind: str, model_hash: str, description: str, page: Path, pictures: Path
) -> None:
    """Lead from the version of a bundle to its model card; nothing happens where it is not registered here.

    The card goes to the files of the run that the version is of, or stays with `run` where that one is gone.
    The tags `card.uri` and `card.sha256` of the version, and the last line of its description, say where it
    is and what the page's digest is. A store that fails costs a warning.

    Args:
        run: has the card among its files (`log_card`); when tracking is off nothing is written.
        kind: see `register_bundle`.
        model_hash: of the bundle.
        description: Markdown, below 4500 characters.
        page: see `log_card`.
        pictures: see `log_card`.
    """
    if not run.is_live:
        return
    name = _registered_name(kind)
    try:
        client = connect()
        with quiet(), tracking_errors(f"describe {name}"):
            version = _find_version(client, name, model_hash)
            if version is not None:
                holder = _keep_card(client, version, run, page, pictures)
                _point_to_card(client, version, holder, page, description)
    except TrackingError as failure:
        _log.warning("%s; %s is not described", failure, name)


def champion(kind: str, *, phantoms_alone: bool = True) -> Path | None:
    """The bundle file of the champion of a kind, fetched from the server when there is one.

    Nobody named this model, so one line says which it is.

    Args:
        kind: see `register_bundle`.
        phantoms_alone: whether one counts that saw phantoms alone; False where something better is at hand.
            One line then says that it is passed over.

    Returns:
        None when tracking is off or there is no champion.

    Raises:
        TrackingError: the store cannot be used, or the champion's file is gone.
    """
    if tracking_is_off() or store_is_missing():
        return None
    name = _registered_name(kind)
    client = connect()
    with quiet(), tracking_errors(f"find the champion of {name}"):
        version = _champion_version(client, name)
        if version is None:
            return None
        if _saw_phantoms_alone(version) and not phantoms_alone:
            _log.warning(
                "%s: passed over, it saw phantoms alone; name its file to take it", _describe(version)
            )
            return None
        path = _local_file(version)
    if not path.is_file():
        raise TrackingError(f"{path}: the champion of {name} is gone from {store_name()}; train again")
    _log.warning("%s", _describe(version))
    return path


def _register(name: str, run_id: str, bundle: Path, tags: dict[str, str], *, higher_is_better: bool) -> str:
    client = connect()
    with quiet(), tracking_errors(f"register {name}"), exclusive():
        _ensure_registered(client, name)
        tags = {**tags, "run": str(client.get_run(run_id).info.run_name)}
        version = _find_version(client, name, tags["model_hash"])
        if version is None:
            version = _create_version(client, name, run_id, bundle, tags)
        if _deserves_alias(_champion_version(client, name), version, higher_is_better=higher_is_better):
            client.set_registered_model_alias(name, _ALIAS, version.version)
    return str(version.version)


def _keep_card(client: MlflowClient, version: Any, run: Run, page: Path, pictures: Path) -> Run:
    """The run that holds the card: the version's own, else the one that it was made in."""
    if not version.run_id or not exists(client, version.run_id):
        return run
    own = Run(client, version.run_id)
    log_card(own, page, pictures)
    return own if own.is_live else run


def _point_to_card(client: MlflowClient, version: Any, holder: Run, page: Path, description: str) -> None:
    """Tags first: a description that stands is one whose tags stand."""
    uri, digest = f"runs:/{holder.run_id}/{_CARD}/{page.name}", sha256(page.read_bytes()).hexdigest()
    for tag, value in {"card.uri": uri, "card.sha256": digest}.items():
        client.set_model_version_tag(version.name, version.version, tag, value)
    told = f"The whole card, with its pictures: `{uri}` (SHA-256 of the page: `{digest}`)"
    client.update_model_version(version.name, version.version, description=f"{description}\n\n{told}")


def _registered_name(kind: str) -> str:
    return f"ldct-{kind}"


def _ensure_registered(client: MlflowClient, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as known:
        if known.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _find_version(client: MlflowClient, name: str, model_hash: str) -> Any | None:
    found = client.search_model_versions(
        f"name = '{name}' and tags.model_hash = '{model_hash}'", max_results=1
    )
    return found[0] if found else None


def _create_version(client: MlflowClient, name: str, run_id: str, bundle: Path, tags: dict[str, str]) -> Any:
    client.log_artifact(run_id, str(bundle), artifact_path="bundle")
    source = f"{client.get_run(run_id).info.artifact_uri}/bundle/{bundle.name}"
    return client.create_model_version(name, source, run_id=run_id, tags=tags, await_creation_for=0)


def _champion_version(client: MlflowClient, name: str) -> Any | None:
    from mlflow.exceptions import MlflowException

    try:
        return client.get_model_version_by_alias(name, _ALIAS)
    except MlflowException as absent:
        # An unknown model and an unset alias have different codes.
        if absent.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def _deserves_alias(holder: Any | None, version: Any, *, higher_is_better: bool) -> bool:
    score = float(version.tags["score"])
    if not math.isfinite(score):
        return False
    if holder is None:
        return True
    if _saw_phantoms_alone(holder) != _saw_phantoms_alone(version):
        return _saw_phantoms_alone(holder)
    if any(holder.tags.get(tag) != version.tags[tag] for tag in ("convention", "data.sha256")):
        if _saw_phantoms_alone(holder):
            return True
        _log.warning(
            "%s: version %s stays champion: version %s was scored on other data or by another convention; "
            "to change that, move the alias '%s' in MLflow (make ui, Models)",
            version.name,
            holder.version,
            version.version,
            _ALIAS,
        )
        return False
    best = float(holder.tags["score"])
    return score > best if higher_is_better else score < best


def _saw_phantoms_alone(version: Any) -> bool:
    return str(version.tags.get(_PHANTOMS_ALONE)) == "yes"


def _describe(version: Any) -> str:
    tags = version.tags
    return (
        f"champion of {version.name}: version {version.version} (run {tags.get('run', 'unknown')}, "
        f"{tags['convention']} {float(tags['score']):.4g}, data {tags['data.sha256'][:12]})"
    )


def _local_file(version: Any) -> Path:
    source = urlsplit(str(version.source))
    if source.scheme in ("", "file"):
        return Path(unquote(source.path))
    model_hash = str(version.tags.get("model_hash"))
    if not _SHA256.fullmatch(model_hash):  # a server's text, about to become a folder's name
        raise TrackingError(
            f"{store_name()}: version {version.version} of {version.name} has the model_hash "
            f"{model_hash[:80]!r}, no SHA-256; register the model again, or name its file"
        )
    path = project_root() / ".ldct" / "champions" / model_hash / Path(source.path).name
    if not path.is_file():
        from mlflow.artifacts import download_artifacts

        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=path.parent) as staging:
            Path(download_artifacts(artifact_uri=version.source, dst_path=staging)).replace(path)
    return path
