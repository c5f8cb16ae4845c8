"""Whether this machine has the sandbox that a recipe's rewards and environment need, tried before anything loads."""

from __future__ import annotations

from llmrl.errors import RecipeError
from llmrl.pieces import Piece
from llmrl.recipe import Recipe
from llmrl.rewards.reward import Reward
from llmrl.sandbox import Sandbox, SandboxError, Tier


def check_isolation(recipe: Recipe, env: Piece) -> tuple[Tier, list[str]] | None:
    """The tier that programs will run in and what it lacks of a full one; None if nothing runs programs.

    Raises RecipeError if there is no sandbox, or only one that a reward or the environment does not allow.
    """
    runners = [(f"env.{env.name}", env)] + [
        (f"rewards.{name}", Reward.from_spec(name, settings or {}).piece) for name, settings in recipe.rewards.items()
    ]
    runners = [(key, piece) for key, piece in runners if piece.mark("runs_programs")]
    if not runners:
        return None
    strict = [key for key, piece in runners if not piece.settings.get("allow_weak", False)]
    try:
        with Sandbox(allow_weak=True) as sandbox:
            tier, missing = sandbox.tier, sandbox.missing
    except SandboxError as error:
        raise RecipeError(f"{runners[0][0]}: {error}") from None
    if not tier.strong and strict:
        raise RecipeError(
            *(
                f"{key}.allow_weak: false, but this machine only gives the sandbox '{tier.name}', which lacks "
                f"{'; '.join(missing)}. docs/sandbox.md says how to get a full one; true accepts this one"
                for key in strict
            )
        )
    return tier, missing
