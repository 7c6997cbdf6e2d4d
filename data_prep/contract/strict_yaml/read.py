"""A YAML file -> its tree, or the model that it describes."""

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel

from data_prep.contract.errors import ConfigError
from data_prep.contract.strict_yaml.explain import shown, validate
from data_prep.contract.strict_yaml.tree import MAX_BYTES, Node, Place, Problem, parse, plain

Model = TypeVar("Model", bound=BaseModel)


def read_model(path: Path, model: type[Model]) -> Model:
    """The model of a file. Raises ConfigError, whose message lists everything that is wrong, one line each."""
    problems: list[Problem] = []
    return checked(validate(read_tree(path, problems=problems), model, problems=problems), problems)


def checked(model: Model | None, problems: list[Problem]) -> Model:
    """The model itself. Raises ConfigError if there was any problem."""
    if model is None or problems:
        raise ConfigError("\n".join(str(problem) for problem in sorted(set(problems))))
    return model


def read_tree(path: Path, *, problems: list[Problem]) -> Node:
    """The top-level map of a file; an empty file is an empty map."""
    if not path.is_file():
        raise ConfigError(f"{path}: no such config file")
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 at byte {error.start}; a config is UTF-8 text") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    if len(content) > MAX_BYTES:
        raise ConfigError(f"{path}: larger than {MAX_BYTES} bytes; this is no config file")
    tree, found = parse(text, str(path))
    problems.extend(found)
    if tree.value is None:
        return Node({}, Place(str(path)))
    if not isinstance(tree.value, dict):
        raise ConfigError(f"{tree.place}: a config is a map of `key: value`, found {shown(plain(tree))}")
    return Node(tree.value, Place(str(path)))
