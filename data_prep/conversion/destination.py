"""What may be at a destination before a conversion begins, and how it is removed."""

from collections.abc import Iterable

from data_prep.contract.errors import NotFoundError, RefusedError
from data_prep.contract.manifest import INDEX_NAME, MANIFEST_NAME, Shard, load_manifest
from data_prep.contract.storage import Storage
from data_prep.conversion.journal import FOLDER, PLAN_PATH, note_plan, read_note


def clear_destination(destination: Storage) -> None:
    """Remove a finished or unfinished conversion, and nothing else. Stopped half-way it can be done again.

    Raises RefusedError, and removes nothing, where something else lies among it.
    """
    paths: list[str] = []
    if destination.exists(MANIFEST_NAME):
        manifest, _ = load_manifest(destination)
        paths += [INDEX_NAME, *(() if manifest.reference else (shard.path for shard in manifest.shards))]
    begun = read_note(destination, PLAN_PATH)
    paths += begun["paths"] if begun else []
    if paths:
        _refuse_strangers(destination, known={MANIFEST_NAME, *paths})
        note_plan(destination, "being removed", paths)
        destination.delete(MANIFEST_NAME)  # first: without it nobody takes the rest for a dataset
    for path in paths:
        destination.delete(path)
    clear_progress(destination)


def _refuse_strangers(destination: Storage, *, known: set[str]) -> None:
    for path in destination.list():
        if path not in known and not path.startswith(f"{FOLDER}/"):
            raise RefusedError(
                f"{destination.locate(path)}: lies in the dataset that is to be replaced, but no conversion wrote it; "
                "nothing was removed: take it away, or give another destination"
            )


def clear_progress(destination: Storage) -> None:
    """Remove what a conversion keeps while it is not finished, and what killed ones left."""
    destination.delete_folder(FOLDER)
    destination.delete_leftovers()


def refuse_place(destination: Storage, source: Storage) -> None:
    """Raises RefusedError for a place that no conversion may have; asked before the source is read."""
    cure = "give another destination"
    if destination.is_same_place(source):
        raise RefusedError(f"{destination.url}: is the source itself; {cure}")
    if destination.is_inside(source):
        raise RefusedError(f"{destination.url}: lies inside the source {source.url}; {cure}")
    if source.is_inside(destination):
        raise RefusedError(f"{destination.url}: the source {source.url} lies inside it; {cure}")
    for folder in destination.parents():
        if folder.exists(MANIFEST_NAME) and folder.exists(INDEX_NAME):
            raise RefusedError(f"{destination.url}: lies inside the prepared dataset {folder.url}; {cure}")
    destination.refuse_unwritable(cure="give an empty folder")


def refuse_folders(destination: Storage, folders: Iterable[Storage]) -> None:
    """Raises RefusedError for a place among the files of a source, which would find it there the next time."""
    for folder in folders:
        if destination.is_same_place(folder) or destination.is_inside(folder):
            raise RefusedError(
                f"{destination.url}: lies inside {folder.url}, where files of the source are; give another destination"
            )


def refuse_foreign(destination: Storage) -> None:
    """Raises RefusedError when there are objects that no conversion of ours put there."""
    found = [path for path in destination.list() if not path.startswith(f"{FOLDER}/")]
    # asked for afterwards: another machine that began meanwhile has noted it before it wrote what was found
    ours = found and (destination.exists(PLAN_PATH) or destination.exists(MANIFEST_NAME))
    if found and not ours:
        raise RefusedError(
            f"{destination.url}: is not empty and holds no conversion (`{found[0]}` is there); give an empty folder"
        )


def refuse_missing(destination: Storage, shard: Shard) -> None:
    """Raises RefusedError when a shard of a finished dataset is gone or of another size."""
    cure = "give `--overwrite` to convert again"
    try:
        found = destination.size(shard.path)
    except NotFoundError as error:
        raise NotFoundError(f"{error}, though the manifest lists it; {cure}") from error
    if found != shard.bytes:
        where = destination.locate(shard.path)
        raise RefusedError(f"{where}: has {found} bytes, but the manifest says {shard.bytes}; {cure}")
