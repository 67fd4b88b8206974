"""A paper's claim as an experiment, written down before it is run: arms, measure, and the smallest
effect that counts. One YAML file per claim, in `claims/`."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from opsd.experiments.measures import Measure, Strict
from opsd.types import UserError


class ClaimArm(Strict):
    """What is trained, from a built-in model, and on what it is tested.

    Without a `method` the model is tested as it is. `tokens` are generated in training, and
    `points` are the shares of them after which the arm is tested. `train_on` and `test_on` are
    families of problems (all unless given); `told` deals every problem another one's privileged
    texts. `train` changes further arguments of training. A `probe` is not trained: it counts where
    the method's teacher disagrees with the model's wrong rollouts.
    """

    method: str | dict[str, Any] | None = None
    model: str | None = None
    languages: tuple[str, ...] = ("swa",)
    tokens: Annotated[int, Field(gt=0)] = 22_000
    points: tuple[Annotated[float, Field(gt=0, le=1)], ...] = (1.0,)
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    train: dict[str, Any] = Field(default_factory=dict)
    problems: Annotated[int, Field(gt=0)] = 200
    samples: Annotated[int, Field(gt=0)] = 4
    budgets: tuple[Annotated[int, Field(gt=0)], ...] = ()
    train_on: tuple[str, ...] = ()
    test_on: tuple[str, ...] = ()
    told: Literal["own", "another"] = "own"
    probe: bool = False


class Claim(Strict):
    """`at_least` is the smallest effect that counts, or, below what would be none, the margin of
    'as good as'; in the measure's unit."""

    name: str = ""
    claim: str
    paper: str
    world: Literal["miniature", "miniature-long"]
    arms: dict[str, ClaimArm]
    measure: Measure
    at_least: float
    seeds: Annotated[int, Field(ge=3)] = 3
    note: str = ""

    @model_validator(mode="after")
    def _arms_are_there(self) -> Claim:
        missing = self.measure.shown().keys() - self.arms.keys()
        if missing:
            raise ValueError(f"the measure names no arm of the claim: {', '.join(sorted(missing))}")
        return self


@cache
def claims() -> dict[str, Claim]:
    """All shipped claims, by name, in the order of their files."""
    folder = resources.files("opsd.experiments") / "claims"
    shared = yaml.safe_load((folder / "arms.yaml").read_text("utf-8"))
    names = sorted(f.name for f in folder.iterdir() if f.name != "arms.yaml")
    return {
        name.removesuffix(".yaml"): _read(name, (folder / name).read_text("utf-8"), shared)
        for name in names
    }


def chosen(names: list[str]) -> list[Claim]:
    """The named claims, or all. UserError for a name that no claim has."""
    known = claims()
    for name in names:
        if name not in known:
            raise UserError(f"no claim '{name}'; there are {', '.join(known)}")
    return [known[name] for name in names or known]


def _read(name: str, text: str, shared: dict[str, Any]) -> Claim:
    """A claim; an arm given by a name alone is one of `arms.yaml`."""
    content = yaml.safe_load(text)
    arms = content.get("arms", {})
    for key, arm in arms.items():
        base = shared[arm.pop("like")] if isinstance(arm, dict) and "like" in arm else {}
        arms[key] = shared[arm] if isinstance(arm, str) else base | arm
    try:
        return Claim(**content | {"name": name.removesuffix(".yaml")})
    except ValidationError as error:
        raise UserError(f"claims/{name}: {' '.join(str(error).split())}") from error
