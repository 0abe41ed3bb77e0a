"""What Weights & Biases takes for a project, an entity and a tag."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

FORBIDDEN = "/\\#?%:"
LONGEST_NAME = 128
LONGEST_TAG = 64


def split_project(project: str) -> tuple[str | None, str]:
    """Entity and project of `entity/project`; no entity where there is only a project."""
    entity, slash, name = project.partition("/")
    return (entity, name) if slash else (None, project)


def project_problem(project: str, entity: str | None) -> str | None:
    """What is wrong with a project, `entity/project` too, beside an entity of its own."""
    first, name = split_project(project)
    for part in (name, *([first] if first is not None else [])):
        if problem := name_problem(part):
            return problem
    if first is not None and entity not in (None, first):
        return f"names the entity '{first}', but tracking.wandb_entity is '{entity}': drop one of the two"
    return None


def name_problem(name: str) -> str | None:
    """What is wrong with one name, of a project or an entity."""
    wrong = "".join(sorted(set(name) & set(FORBIDDEN)))
    if wrong or not name.strip() or not name.isprintable():
        shown = " ".join(FORBIDDEN)
        return f"must be a name, or entity/project, without any of {shown} in a name (got '{name}')"
    if len(name) > LONGEST_NAME:
        return f"must have at most {LONGEST_NAME} characters (got {len(name)})"
    return None


def tag_problems(tags: Sequence[str]) -> Iterator[str]:
    """What is wrong with tags."""
    for tag in tags:
        if not tag.strip():
            yield "a tag must not be empty"
        elif len(tag) > LONGEST_TAG:
            yield f"a tag has at most {LONGEST_TAG} characters ('{tag[:20]}...' has {len(tag)})"
