"""The built-in reward functions, by the names that recipes use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llmrl.rewards.appraisal import appraisal
from llmrl.rewards.choice_letter import choice_letter
from llmrl.rewards.code.verifier import code_verifier
from llmrl.rewards.costs import cheapness
from llmrl.rewards.critiques import discrimination, refined
from llmrl.rewards.debates import wins_debate
from llmrl.rewards.found_faults import found_faults
from llmrl.rewards.hindsight import hindsight
from llmrl.rewards.implicit_process_reward import implicit_process_reward
from llmrl.rewards.instruction_following import instruction_following
from llmrl.rewards.judgements import consistency, integrated
from llmrl.rewards.judges import judge_pointwise
from llmrl.rewards.majority import majority_answer
from llmrl.rewards.math_verifier import math_verifier
from llmrl.rewards.peers import peer_scores
from llmrl.rewards.privileged_advantage import privileged_advantage
from llmrl.rewards.process_reward_model import process_reward_model
from llmrl.rewards.proposals import difficulty_and_diversity, learnable, regret
from llmrl.rewards.reasoning_gym import reasoning_gym
from llmrl.rewards.remote import remote_score, vllm_score
from llmrl.rewards.reward_model import reward_model
from llmrl.rewards.right_verdict import right_verdict
from llmrl.rewards.shaping import (
    cosine_length,
    format_pattern,
    from_dataset,
    group_length,
    length_penalty,
    overlong_penalty,
    reasoning_steps,
    repetition_penalty,
    tag_count,
    think_answer_format,
    think_format,
    token_repetition_penalty,
)
from llmrl.rewards.similarity import edit_similarity, rouge
from llmrl.rewards.sneaky_steps import fools_critiquer, judges_step
from llmrl.rewards.span_critique import span_critique
from llmrl.rewards.step_critiques import step_critiques
from llmrl.rewards.text_answers import exact_match, f1
from llmrl.rewards.welfare import social_welfare
from llmrl.rewards.win_rate import win_rate

VERIFIERS = (
    math_verifier,
    code_verifier,
    reasoning_gym,
    choice_letter,
    exact_match,
    instruction_following,
    right_verdict,
)
"""The built-in rewards that give verdicts; the others give none."""

CATALOGUE: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (
        *VERIFIERS,
        discrimination,
        appraisal,
        refined,
        integrated,
        consistency,
        reward_model,
        privileged_advantage,
        process_reward_model,
        implicit_process_reward,
        f1,
        rouge,
        edit_similarity,
        format_pattern,
        think_format,
        think_answer_format,
        tag_count,
        reasoning_steps,
        overlong_penalty,
        length_penalty,
        cheapness,
        cosine_length,
        group_length,
        from_dataset,
        repetition_penalty,
        token_repetition_penalty,
        remote_score,
        vllm_score,
        judge_pointwise,
        found_faults,
        span_critique,
        step_critiques,
        hindsight,
        win_rate,
        social_welfare,
        majority_answer,
        learnable,
        regret,
        difficulty_and_diversity,
        fools_critiquer,
        judges_step,
        wins_debate,
        peer_scores,
    )
}
